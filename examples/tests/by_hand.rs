//! Nodes and clients by hand, as in four terminals.

#![cfg(unix)]

mod support;

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{Node, Process, client, example, read, says, three_nodes, write};

#[test]
fn the_client_goes_on_without_one_of_three() {
    let mut nodes = three_nodes();
    let (_, said) = says(client(&nodes, &["put", "tea", "\"green\""]), 0);
    assert!(said.starts_with("3 of 3 replicas acked"), "{said}");
    assert_eq!(says(client(&nodes, &["get", "tea"]), 0).0, "\"green\"\n");

    nodes[2].kill();

    let (_, said) = says(client(&nodes, &["put", "tea", "{\"cups\": 2}"]), 0);
    assert!(said.starts_with("2 of 3 replicas acked"), "{said}");
    let third = format!("  {}  failed: not reached\n", nodes[2].address());
    assert!(said.ends_with(&third), "{said}");
    assert_eq!(
        says(client(&nodes, &["get", "tea"]), 0).0,
        "{\"cups\": 2}\n"
    );

    // What failed to be written three times is there twice.
    let three = ["put", "tea", "\"black\"", "--write-quorum", "3"];
    says(client(&nodes, &three), 2);
    assert_eq!(says(client(&nodes, &["get", "tea"]), 0).0, "\"black\"\n");
    says(client(&nodes, &["get", "tea", "--read-quorum", "3"]), 2);

    says(client(&nodes, &["delete", "tea"]), 0);
    says(client(&nodes, &["get", "tea"]), 1);
    assert!(read(nodes[0].port, "tea") == "null");
}

/// Catches increments that overwrite each other, or that count twice; and a sum that
/// is another than what is there.
#[test]
fn increments_of_many_clients_all_count() {
    let mut nodes = three_nodes();
    let (printed, said) = says(client(&nodes, &["increment", "hits"]), 0);
    assert_eq!(printed, "1\n");
    assert!(said.starts_with("version "), "{said}");
    assert_eq!(
        says(client(&nodes, &["increment", "hits", "--by", "-3"]), 0).0,
        "-2\n"
    );
    nodes[2].kill();
    let nodes = &nodes;
    let increment = || {
        let output = client(nodes, &["increment", "hits", "--by", "2"]);
        if output.status.success() {
            return Some(says(output, 0).0.trim().parse::<i64>().unwrap());
        }
        // Another one may have overtaken it half-way.
        let (_, said) = says(output, 2);
        assert!(
            said.starts_with("error: the update failed and may have been applied: "),
            "{said}"
        );
        None
    };
    let outcomes: Vec<Option<i64>> = thread::scope(|scope| {
        let clients = [(); 4].map(|()| scope.spawn(|| [(); 5].map(|()| increment())));
        let outcomes = clients.map(|client| client.join().unwrap());
        outcomes.into_iter().flatten().collect()
    });
    let mut sums: Vec<i64> = outcomes.iter().copied().flatten().collect();
    let acked = sums.len();
    sums.sort_unstable();
    sums.dedup();
    assert_eq!(sums.len(), acked, "{outcomes:?}");
    assert!(acked > 10, "{outcomes:?}");
    let held: i64 = says(client(nodes, &["get", "hits"]), 0)
        .0
        .trim()
        .parse()
        .unwrap();
    let counted = (held + 2) / 2;
    assert!(
        (acked as i64..=20).contains(&counted),
        "{held} after {outcomes:?}"
    );
}

/// Catches a value that stays, or one that is gone at once; one that expires and is taken
/// for deleted; and a length of time that is misread.
#[test]
fn a_value_is_there_for_as_long_as_was_said() {
    let nodes = three_nodes();
    let put = |ttl| ["put", "session", "\"alice\"", "--ttl", ttl];
    for long in ["1h 30m", "86400"] {
        says(client(&nodes, &put(long)), 0);
        assert_eq!(
            says(client(&nodes, &["get", "session"]), 0).0,
            "\"alice\"\n"
        );
    }
    says(client(&nodes, &put("200ms")), 0);
    let gone = || client(&nodes, &["get", "session"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut output = gone();
    while output.status.success() && Instant::now() < deadline {
        output = gone();
    }
    let (printed, said) = says(output, 1);
    assert_eq!(printed, "");
    assert!(
        said.starts_with("session is absent: it has expired\n"),
        "{said}"
    );
    let (_, said) = says(client(&nodes, &put("soon")), 2);
    assert!(said.contains("'--ttl <DURATION>'"), "{said}");
}

/// Catches a number that is changed though it can't be added to, and a string that is
/// taken for 0.
#[test]
fn what_is_no_integer_is_not_incremented() {
    let nodes = three_nodes();
    for (value, complaint) in [
        ("\"tea\"", "holds no integer of 64 bits, but \\\"tea\\\""),
        ("1.5", "holds no integer of 64 bits, but 1.5"),
        ("9223372036854775807", "the sum does not fit in 64 bits"),
    ] {
        says(client(&nodes, &["put", "n", value]), 0);
        let (printed, error) = says(client(&nodes, &["increment", "n"]), 2);
        assert_eq!(printed, "");
        assert!(error.starts_with("error: n holds "), "{error}");
        assert!(error.contains(complaint), "{error}");
        let (printed, _) = says(client(&nodes, &["get", "n"]), 0);
        assert_eq!(printed, format!("{value}\n"));
    }
    says(client(&nodes, &["delete", "n"]), 0);
    assert_eq!(says(client(&nodes, &["increment", "n"]), 0).0, "1\n");
}

/// Catches a value that is written where another one is, and an exit code that says
/// that it was not.
#[test]
fn cas_and_create_write_only_over_what_they_expect() {
    let nodes = three_nodes();
    let (printed, said) = says(client(&nodes, &["cas", "lock", "1", "2"]), 1);
    assert_eq!(printed, "");
    assert!(said.starts_with("lock is absent, and stays so\n"), "{said}");
    let (printed, said) = says(client(&nodes, &["create", "lock", "\"mine\""]), 0);
    assert_eq!(printed, "");
    assert!(
        said.starts_with("lock was absent, and now it is there\nversion "),
        "{said}"
    );
    let (printed, said) = says(client(&nodes, &["create", "lock", "\"yours\""]), 1);
    assert_eq!(printed, "\"mine\"\n");
    assert!(
        said.starts_with("lock is another value, and stays\n"),
        "{said}"
    );
    let (printed, _) = says(client(&nodes, &["cas", "lock", "\"yours\"", "1"]), 1);
    assert_eq!(printed, "\"mine\"\n");
    // What is not JSON is the string that `put` stores.
    let (printed, said) = says(client(&nodes, &["cas", "lock", "mine", "-5"]), 0);
    assert_eq!(printed, "");
    assert!(said.contains("lock was as expected"), "{said}");
    for node in &nodes {
        assert!(read(node.port, "lock").starts_with("{\"value\":-5,"));
    }
    says(client(&nodes, &["delete", "lock"]), 0);
    says(client(&nodes, &["create", "lock", "6"]), 0);
    assert_eq!(says(client(&nodes, &["get", "lock"]), 0).0, "6\n");
}

/// Catches a failed update that is told as one that may be applied, or without what
/// each replica did.
#[test]
fn a_failed_update_says_whether_it_may_be_applied() {
    let mut nodes = three_nodes();
    nodes[0].kill();
    nodes[1].kill();
    for update in [
        &["increment", "n"][..],
        &["cas", "n", "1", "2"],
        &["create", "n", "1"],
    ] {
        let (printed, error) = says(client(&nodes, update), 2);
        assert_eq!(printed, "");
        let expected = "error: the update failed and was not applied: in attempt 1, ";
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(error.lines().count(), 4, "{error}");
    }
    assert_eq!(read(nodes[2].port, "n"), "null");
}

/// Catches a failure told in one long line: what each replica did has a line of
/// its own, with all causes.
#[test]
fn a_failure_has_a_line_for_each_replica() {
    let mut nodes = three_nodes();
    nodes[2].kill();
    let addresses = nodes.each_ref().map(Node::address);
    let [first, second, third] = &addresses;
    let refused = "failed: the replica was not reached: connecting failed: Connection refused";

    let three = ["put", "tea", "1", "--write-quorum", "3"];
    let (printed, error) = says(client(&nodes, &three), 2);
    assert_eq!(printed, "");
    let expected = format!(
        "error: the write failed and may have been applied: 2 of 3 replicas acked, and 3 were \
         needed\n  {first}  acked\n  {second}  acked\n  {third}  {refused} (os error"
    );
    assert!(error.starts_with(&expected), "{error}");
    assert_eq!(error.lines().count(), 4, "{error}");

    let three = ["get", "tea", "--read-quorum", "3"];
    let (printed, error) = says(client(&nodes, &three), 2);
    assert_eq!(printed, "");
    assert!(error.starts_with("error: the read failed: "), "{error}");
    let third = format!("\n  {third}  {refused} (os error");
    assert!(error.contains(&third), "{error}");
    assert_eq!(error.lines().count(), 4, "{error}");
}

/// A client that ended at W acks would take the rest of the write with it.
#[test]
fn a_write_reaches_all_three_before_the_client_ends() {
    let nodes = three_nodes();
    for round in 0..20 {
        let value = round.to_string();
        let put = ["put", "n", &value, "--write-quorum", "1"];
        let (_, said) = says(client(&nodes, &put), 0);
        assert!(said.starts_with("3 of 3 replicas acked"), "{said}");
        for node in &nodes {
            let held = read(node.port, "n");
            assert!(held.starts_with(&format!("{{\"value\":{value},")), "{held}");
        }
    }
}

/// As a write, a repair goes on after the read has its answer.
#[test]
fn a_read_has_repaired_before_the_client_ends() {
    let nodes = three_nodes();
    for round in 0..20 {
        let value = round.to_string();
        write(nodes[round % 3].port, "n", &value, 1000 + round as u64);
        let get = ["get", "n", "--read-quorum", "3"];
        let (printed, _) = says(client(&nodes, &get), 0);
        assert_eq!(printed, format!("{value}\n"));
        for node in &nodes {
            let held = read(node.port, "n");
            assert!(held.starts_with(&format!("{{\"value\":{value},")), "{held}");
        }
    }
}

fn run(arguments: &[&str]) -> Output {
    example("three-node").args(arguments).output().unwrap()
}

#[test]
fn numbers_and_nodes_that_make_no_sense_are_usage_errors() {
    for (arguments, expected) in [
        (&["get", "k", "--read-quorum", "4"][..], "4 is not in 1..=3"),
        (
            &["put", "k", "v", "--write-quorum", "0"],
            "0 is not in 1..=3",
        ),
        (
            &["get", "k", "--nodes", "a:1,b:2"],
            "2 addresses, not three",
        ),
        (&["get", "k", "--nodes", "a:1,b:2,a:1"], "must be different"),
        (&["--base-port", "65534"], "65534 is not in 1..=65533"),
        (&["scan", "--read-quorum", "4"], "4 is not in 1..=3"),
        (&["increment", "k", "--by", "1.5"], "invalid digit"),
        (&["cas", "k", "1"], "<NEW>"),
        // As it would be stored otherwise.
        (
            &["put", "k", "--write-quorm"],
            "neither an option nor a number",
        ),
    ] {
        let (_, error) = says(run(arguments), 2);
        assert!(error.contains(expected), "{error}");
    }
}

/// Catches a command that offers what it has no use for.
#[test]
fn each_command_has_its_own_quorum_only() {
    for (command, its_own, other) in [
        ("put", "--write-quorum", "--read-quorum"),
        ("delete", "--write-quorum", "--read-quorum"),
        ("get", "--read-quorum", "--write-quorum"),
        ("scan", "--read-quorum", "--write-quorum"),
    ] {
        let (help, _) = says(run(&[command, "--help"]), 0);
        assert!(help.contains(its_own), "{help}");
        assert!(!help.contains(other), "{help}");
    }
    // Registers need quorums that overlap.
    for command in ["increment", "cas", "create"] {
        let (help, _) = says(run(&[command, "--help"]), 0);
        assert!(!help.contains("-quorum"), "{help}");
        assert!(help.contains("Exit codes: "), "{help}");
    }
}

#[test]
fn it_tells_its_version() {
    let version = format!("three-node {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(says(run(&["--version"]), 0).0, version);
}

/// Catches a store that is made before the port is known to be free.
#[test]
fn a_node_names_a_port_in_use_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for place in [&["--memory"][..], &[], &["--data", "data"]] {
        let mut command = example("three-node");
        let command = command.current_dir(directory.path()).arg("node");
        let command = command.args(["--port", &port]).args(place);
        let (_, error) = says(command.output().unwrap(), 2);
        assert_eq!(error, format!("error: port {port} is in use\n"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_node_ends_gracefully_when_asked() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        if signal == Signal::SIGHUP && ignores_hangups("self") {
            println!("skipped: tests that ignore SIGHUP start nodes that do");
            continue;
        }
        let mut process =
            Process::start(example("three-node").args(["node", "--memory", "--port", "0"]));
        let address = process.line();
        let address = address.strip_prefix("A replica in memory, on http://");
        // Neither holds anything up, nor ends it by itself.
        let _idle = TcpStream::connect(address.unwrap()).unwrap();
        process.close_stdin();
        assert!(!process.has_ended());
        process.send(signal);
        let (status, stdout, stderr) = process.end();
        assert_eq!(status.code(), Some(0), "{stderr}");
        assert!(
            stdout.ends_with("Ended; nothing was cut short.\n"),
            "{stdout}"
        );
    }
}

/// Whether a process was started to ignore SIGHUP, as by `nohup`, where that can be told.
fn ignores_hangups(process: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 1)
}

/// Whoever starts a node with `nohup` wants it to outlive the terminal. Catches
/// a handler for SIGHUP that is set all the same.
#[test]
#[cfg(target_os = "linux")]
fn a_node_that_is_to_ignore_hangups_does() {
    let node = example("three-node");
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" node --memory --port 0"]);
    let mut process = Process::start(command.arg(node.get_program()));
    assert!(process.line().starts_with("A replica in memory"));
    assert!(ignores_hangups(&process.id().to_string()));
    process.send(Signal::SIGTERM);
    assert!(process.end().0.success());
}

/// A node started again on its directory still holds what it had acked, and one
/// that keeps it in memory does not.
#[test]
fn a_killed_node_comes_back_with_its_data() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().join("node");
    let mut node = any_node(|port| Node::try_start_in(port, &directory));
    write(node.port, "tea", "\"green\"", 1);
    for round in 2..5 {
        node.kill();
        node = any_node(|port| Node::try_start_in(port, &directory));
        let held = read(node.port, "tea");
        assert_eq!(
            held,
            format!("{{\"value\":\"green\",\"timestamp\":{}}}", round - 1)
        );
        write(node.port, "tea", "\"green\"", round);
    }
    let (_, error) = says(on_any_port(&directory).output().unwrap(), 2);
    let in_use = format!("error: {} is in use by another node\n", directory.display());
    assert_eq!(error, in_use);

    let mut node = any_node(Node::try_start);
    write(node.port, "tea", "\"green\"", 1);
    node.kill();
    let node = any_node(Node::try_start);
    assert_eq!(read(node.port, "tea"), "null");
}

fn on_any_port(directory: &Path) -> Command {
    let mut command = example("three-node");
    command.args(["node", "--port", "0", "--data"]);
    command.arg(directory);
    command
}

/// A node on some free port.
fn any_node(start: impl Fn(u16) -> Option<Node>) -> Node {
    let node = (0..10).find_map(|_| start(support::free_base_port()));
    node.unwrap_or_else(|| panic!("no port stayed free"))
}

#[test]
fn a_node_keeps_its_data_in_a_directory_of_its_port() {
    let data = tempfile::tempdir().unwrap();
    let port = support::free_base_port().to_string();
    let mut command = example("three-node");
    let command = command.current_dir(data.path());
    let mut node = Process::start(command.args(["node", "--port", &port]));
    let said = node.line();
    let expected = format!("A replica in three-node-data/{port}, on http://127.0.0.1:{port}");
    assert_eq!(said, expected);
    node.send(Signal::SIGTERM);
    let (status, stdout, stderr) = node.end();
    assert!(status.success(), "{stderr}");
    // Said once the store is closed.
    assert!(
        stdout.ends_with("Ended; nothing was cut short.\n"),
        "{stdout}"
    );
    assert!(data.path().join("three-node-data").join(&port).is_dir());
    let (_, error) = says(run(&["node", "--port", "0"]), 2);
    assert!(error.contains("needs --data or --memory"), "{error}");
    says(run(&["node", "--port", "0", "--memory", "--data", "d"]), 2);
}
