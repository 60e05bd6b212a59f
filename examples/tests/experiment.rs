//! The experiment, as a newcomer runs it, and as it ends when it is not let.

#![cfg(unix)]

mod support;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;
use support::{Process, are_free, example, free_base_port, wait_until};
use tempfile::TempDir;

/// One test at a time: a process that another thread is just starting holds
/// copies of this one's listeners for a moment, and their ports are not free.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The experiment, with a directory of its own for temporary files.
fn experiment(base_port: u16, temporary: &TempDir) -> Command {
    let mut command = example("three-node");
    command.args(["--base-port", &base_port.to_string()]);
    command.env("TMPDIR", temporary.path());
    command
}

fn is_empty(directory: &TempDir) -> bool {
    fs::read_dir(directory.path()).unwrap().next().is_none()
}

fn run(base_port: u16, arguments: &[&str]) -> Output {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = experiment(base_port, &temporary);
    let output = command.args(arguments).output().unwrap();
    assert!(is_empty(&temporary), "files are left behind");
    output
}

/// The experiment on ports that nobody takes meanwhile.
fn run_anywhere(arguments: &[&str]) -> (u16, Output) {
    loop {
        let base = free_base_port();
        let output = run(base, arguments);
        if !text(&output.stderr).contains("is in use") {
            break (base, output);
        }
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn it_tells_its_story_and_leaves_nothing_behind() {
    let _alone = alone();
    let (base, output) = run_anywhere(&[]);
    let story = text(&output.stdout);
    assert!(output.status.success(), "{story}\n{output:?}");
    assert!(are_free(base));

    in_this_order(
        story,
        &[
            " 1. Three nodes start",
            "node 3  127.0.0.1:",
            " 2. A write that waits for three acks",
            "node 3  acked",
            " 3. Node 3 is killed",
            "node 3  no answer",
            " 4. A write that needs three acks fails",
            "> the write failed and may have been applied: 2 of 3 replicas acked",
            "failed: not reached  failed: not reached",
            " 5. A write that needs two acks succeeds",
            "node 2  acked",
            " 6. A read that needs two answers succeeds",
            " 7. Node 3 comes back, with its data",
            "node 3  \"tea\"",
            " 8. A read repairs it",
            "\"juice\"",
            " 9. Node 3 misses writes, and converges without a read",
            "node 3  nothing",
            "node 3  1 ",
            "10. Node 3 loses its data, and rejoins",
            "node 3  joining",
            "The get between returned \"juice\"",
            "2 keys were copied",
            "sees to that itself",
            "node 3  ",
            "\"juice\"",
            "11. A delete",
            "a tombstone",
            "12. The tombstones go away",
            "node 3  1        nothing",
            "node 3  refused   refused",
            "13. Two clocks ten seconds apart",
            "It took 2 attempts, and get(\"lunch\") returns \"rice\"",
            "14. Two writers increment one counter",
            "node 3  no answer",
            "were acknowledged",
            "All 14 steps did what they said",
        ],
    );
    let widest = story.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80), "{widest:?}");
}

/// Catches a promise of the README that the command refuses.
#[test]
fn it_tells_another_story_in_memory() {
    let _alone = alone();
    let (base, output) = run_anywhere(&["--memory"]);
    let story = text(&output.stdout);
    assert!(output.status.success(), "{story}\n{output:?}");
    assert!(are_free(base));
    in_this_order(
        story,
        &[
            " 3. Node 3 is killed",
            "was in memory, and is gone",
            " 7. Node 3 comes back, with nothing, and rejoins",
            "node 3  joining",
            "The get between returned \"juice\"",
            "sees to that itself",
            "node 3  ",
            "\"juice\"",
            " 8. A delete",
            " 9. The tombstones go away",
            "node 3  refused   refused",
            "10. Two clocks ten seconds apart",
            "11. Two writers increment one counter",
            "All 11 steps did what they said",
        ],
    );
    assert!(!story.contains("disk"), "{story}");
}

fn in_this_order(story: &str, all_expected: &[&str]) {
    let mut rest = story;
    for expected in all_expected {
        let at = rest.find(expected);
        let at = at.unwrap_or_else(|| panic!("no {expected:?}, in its place, in\n{story}"));
        rest = &rest[at + expected.len()..];
    }
}

#[test]
fn a_port_in_use_is_named_and_the_option_for_others() {
    let _alone = alone();
    for taken in 0..3 {
        let base = free_base_port();
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, base + taken)).unwrap();
        let output = run(base, &[]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let error = format!(
            "port {} is in use; choose another --base-port",
            base + taken
        );
        assert!(text(&output.stderr).contains(&error), "{output:?}");
        drop(held);
        assert!(are_free(base), "a node was left behind");
    }
}

#[test]
fn no_node_outlives_it() {
    let _alone = alone();
    for signal in [
        Signal::SIGKILL,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
    ] {
        // It is over so soon that a signal may come too late, now and then.
        let interrupted = (0..50).any(|_| interrupt(signal));
        assert!(interrupted, "{signal} always came too late");
    }
}

/// Interrupts the experiment; `false` where it was over by then.
fn interrupt(signal: Signal) -> bool {
    let base = free_base_port();
    let temporary = tempfile::tempdir().unwrap();
    let mut experiment = Process::start(&mut experiment(base, &temporary));
    loop {
        let line = experiment.line();
        if line.starts_with(" 2. ") {
            break;
        }
        if line.is_empty() && experiment.stdout.buffer().is_empty() && experiment.has_ended() {
            return false;
        }
    }
    assert!(!are_free(base), "the nodes should be there by now");
    experiment.send(signal);
    let (status, _, stderr) = experiment.end();
    if status.success() {
        return false;
    }
    if signal == Signal::SIGKILL {
        assert_eq!(status.signal(), Some(9));
        wait_until("the nodes have ended", || are_free(base));
    } else {
        assert_eq!(status.code(), Some(2));
        assert!(stderr.contains("interrupted"), "{stderr}");
        assert!(are_free(base), "the nodes should have ended before it");
        assert!(is_empty(&temporary), "files are left behind");
    }
    true
}
