//! Example binaries, as processes.

#![allow(dead_code, reason = "each test uses its own part of it")]

pub mod cluster;

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// For what should take milliseconds, on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The binary of an example, as its sources are now.
///
/// `cargo test` builds all examples before it runs any test, beside the
/// directory of the test itself. With `--test` it does not: then they are built
/// here, where they are missing or older than what they are made of.
pub fn example(name: &str) -> Command {
    static EXAMPLES: OnceLock<PathBuf> = OnceLock::new();
    let examples = EXAMPLES.get_or_init(|| {
        let test = env::current_exe().unwrap();
        let profile = test.parent().unwrap().parent().unwrap();
        let examples = profile.join("examples");
        let all = [
            "in-memory",
            "failed-writes",
            "delete-by-prefix",
            "lease",
            "own-replica",
            "measured",
            "own-transport",
            "three-node",
        ];
        // Asking cargo in any case would build all again after a test of the whole
        // workspace, with the features that this package alone has.
        if !all.iter().all(|name| is_up_to_date(&examples.join(name))) {
            let profile_name = profile.file_name().unwrap().to_str().unwrap();
            let mut cargo = Command::new(env!("CARGO"));
            cargo
                .args(["build", "--package", "kvquorum-examples", "--examples"])
                .args(["--profile", profile_name.replace("debug", "dev").as_str()])
                .env("CARGO_TARGET_DIR", profile.parent().unwrap());
            // What cargo tells this test of itself would have build scripts run again.
            let is_told = |name: &OsStr| {
                let name = name.to_string_lossy();
                name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
            };
            for (name, _) in env::vars_os().filter(|(name, _)| is_told(name)) {
                cargo.env_remove(name);
            }
            let built = cargo.status().unwrap();
            assert!(built.success(), "the examples do not build");
        }
        examples
    });
    Command::new(examples.join(name))
}

/// Whether a binary is there, and no older than any file that cargo says it is made of,
/// in the dep-info beside it. The members of the workspace are among these.
fn is_up_to_date(binary: &Path) -> bool {
    let modified = |file: &Path| fs::metadata(file).and_then(|file| file.modified()).ok();
    let Some(built) = modified(binary) else {
        return false;
    };
    let info = fs::read_to_string(binary.with_extension("d")).unwrap_or_default();
    let Some((_, sources)) = info.split_once(": ") else {
        return false;
    };
    // A space that is part of a path is escaped.
    let sources = sources.trim_end().replace("\\ ", "\0");
    let sources = sources.split(' ').map(|path| path.replace('\0', " "));
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock").to_owned();
    let mut all = sources.chain([lock]);
    all.all(|path| modified(path.as_ref()).is_some_and(|it| it <= built))
}

/// A port that is free together with the next two.
///
/// From below the range that systems take the ports of outgoing connections
/// from: such a port may be taken by anybody's connection, even by one to that
/// very port while nobody listens there. Still, another process may be faster:
/// who finds a port in use should try another.
pub fn free_base_port() -> u16 {
    loop {
        let random = RandomState::new().hash_one(()) % 4000;
        let base = 20_000 + 3 * u16::try_from(random).unwrap();
        if are_free(base) {
            return base;
        }
    }
}

/// Whether nobody listens on this port and the next two.
pub fn are_free(base_port: u16) -> bool {
    (base_port..base_port + 3).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}

/// Waits until a condition holds; panics where it does not within a limit.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}: not so in {PATIENCE:?}");
        sleep(Duration::from_millis(5));
    }
}

/// Numbers from a seed: xorshift.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }
}

/// A process that does not outlive the test.
pub struct Process {
    child: Child,
    pub stdout: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn send(&self, signal: Signal) {
        let id = Pid::from_raw(self.id().try_into().unwrap());
        kill(id, signal).unwrap();
    }

    /// Stops the process, until what is returned is gone: also where the test is killed.
    pub fn pause(&self) -> Paused {
        let id = self.id();
        let script = format!("kill -STOP {id}; echo; read _; kill -CONT {id}");
        let command = &mut Command::new("sh");
        let command = command.args(["-c", &script]).stdin(Stdio::piped());
        let mut shell = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stopped = [0];
        let mut stdout = shell.stdout.take().unwrap();
        stdout.read_exact(&mut stopped).unwrap();
        Paused(shell)
    }

    /// The next line on stdout, without its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The next line on stderr, without its end.
    pub fn error_line(&mut self) -> String {
        let stderr = self.child.stderr.as_mut().unwrap();
        let (mut line, mut byte) = (Vec::new(), [0]);
        // Byte by byte, as what follows is for whoever reads the rest.
        while stderr.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.extend(byte);
        }
        String::from_utf8(line).unwrap()
    }

    /// What it says on stderr from now on, for one who reads that beside.
    pub fn take_stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().unwrap()
    }

    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end, and returns what it has not yet said.
    pub fn end(&mut self) -> (ExitStatus, String, String) {
        let mut status = None;
        wait_until("the process has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).unwrap();
        if let Some(mut all) = self.child.stderr.take() {
            all.read_to_string(&mut stderr).unwrap();
        }
        (status.unwrap(), stdout, stderr)
    }
}

/// A process that is stopped. It goes on when this is gone.
pub struct Paused(Child);

impl Drop for Paused {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `three-node node`. It ends even where the test is killed.
pub struct Node {
    pub port: u16,
    pub process: Process,
}

impl Node {
    /// Starts a node; `None` where it does not listen.
    pub fn try_start(port: u16) -> Option<Self> {
        Self::try_start_with(example("three-node"), port, &["--memory"], "in memory")
    }

    /// Starts a node whose replica is on disk; `None` where it does not listen.
    pub fn try_start_in(port: u16, data: &Path) -> Option<Self> {
        Self::try_start_of(example("three-node"), port, data)
    }

    /// The same, of this program.
    pub fn try_start_of(program: Command, port: u16, data: &Path) -> Option<Self> {
        let data = data.to_str().unwrap();
        Self::try_start_with(program, port, &["--data", data], &format!("in {data}"))
    }

    /// Starts a node that has these peers, in memory or on disk, and runs passes so many
    /// seconds apart; `None` where it does not listen.
    pub fn try_start_beside(
        port: u16,
        data: Option<&Path>,
        peers: &str,
        every: &str,
    ) -> Option<Self> {
        Self::try_start_in_or_not(port, data, &["--peers", peers, "--pass-every", every])
    }

    /// Starts a node that knows of no peers, and that it has lost its data where it has
    /// none; `None` where it does not listen.
    pub fn try_start_alone(port: u16, data: Option<&Path>) -> Option<Self> {
        Self::try_start_in_or_not(port, data, &["--lost-if-empty"])
    }

    /// Starts a node with these options, in memory or on disk; `None` where it does not
    /// listen.
    pub fn try_start_in_or_not(port: u16, data: Option<&Path>, more: &[&str]) -> Option<Self> {
        let data = data.map(|data| data.to_str().unwrap());
        let (mut arguments, place) = match data {
            Some(data) => (vec!["--data", data], format!("in {data}")),
            None => (vec!["--memory"], "in memory".to_owned()),
        };
        arguments.extend(more);
        Self::try_start_with(example("three-node"), port, &arguments, &place)
    }

    fn try_start_with(
        mut command: Command,
        port: u16,
        arguments: &[&str],
        place: &str,
    ) -> Option<Self> {
        let mut process = Process::start(
            command
                .args(["node", "--while-stdin-is-open", "--port"])
                .arg(port.to_string())
                .args(arguments),
        );
        let listens = process.line() == format!("A replica {place}, on http://127.0.0.1:{port}");
        listens.then_some(Self { port, process })
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn kill(&mut self) {
        self.process.send(Signal::SIGKILL);
        self.process.end();
    }
}

/// Three running nodes.
pub fn three_nodes() -> [Node; 3] {
    for _ in 0..10 {
        let base = free_base_port();
        let nodes = [base, base + 1, base + 2].map(Node::try_start);
        if let [Some(a), Some(b), Some(c)] = nodes {
            return [a, b, c];
        }
    }
    panic!("no three ports stayed free");
}

/// Runs the client on these nodes.
pub fn client(nodes: &[Node; 3], arguments: &[&str]) -> Output {
    let nodes = nodes.each_ref().map(Node::address).join(",");
    let mut command = example("three-node");
    let command = command.args(arguments).args(["--nodes", &nodes]);
    command.output().unwrap()
}

/// Runs the client on these nodes with a terminal for its output and errors:
/// what is shown there.
pub fn on_a_terminal(columns: u16, nodes: &[Node; 3], arguments: &[&str]) -> String {
    let size = Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = openpty(Some(&size), None).unwrap();
    let nodes = nodes.each_ref().map(Node::address).join(",");
    let mut command = example("three-node");
    let command = command.args(arguments).args(["--nodes", &nodes]);
    let errors = terminal.slave.try_clone().unwrap();
    let command = command.env_remove("COLUMNS").stdin(Stdio::null());
    command.stdout(terminal.slave).stderr(errors);
    let mut child = command.spawn().unwrap();
    // Its end is the end of the text, once nobody else holds the terminal.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    let mut shown = File::from(terminal.master);
    // The end of a terminal is an error on some systems.
    while let Ok(read @ 1..) = shown.read(&mut buffer) {
        text.extend_from_slice(&buffer[..read]);
    }
    child.wait().unwrap();
    String::from_utf8(text).unwrap().replace("\r\n", "\n")
}

/// What the client prints, and what it says beside it. Panics where it does not
/// exit with this code.
pub fn says(output: Output, code: i32) -> (String, String) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

/// What a shell makes of these lines: the arguments of each `curl`.
pub fn pasted(lines: &str) -> Vec<Vec<String>> {
    let script = format!("curl() {{ printf '%s\\n' \"$@\" end; }}\n{lines}");
    let shell = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(shell.status.success(), "{shell:?}");
    let words = String::from_utf8(shell.stdout).unwrap();
    let words: Vec<String> = words.lines().map(str::to_owned).collect();
    let calls = words.split(|word| word == "end");
    let calls = calls.filter(|call| !call.is_empty());
    calls.map(<[String]>::to_vec).collect()
}

/// One request in HTTP/1.1, as a client writes it that knows no more than the
/// two routes. Returns the status and the body.
pub fn http(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    http_with(port, method, path, "", body)
}

/// The same with a header, with the end of its line.
pub fn http_with(
    port: u16,
    method: &str,
    path: &str,
    header: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let header = format!("Host: 127.0.0.1\r\n{header}");
    http_to(port, method, path, &header, body)
}

/// The same with all headers, the host's too.
pub fn http_to(
    port: u16,
    method: &str,
    path: &str,
    header: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nConnection: close\r\n{header}\
         Content-Length: {length}\r\n\r\n{body}"
    )?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    Ok((status.parse().unwrap(), body.trim_end().to_owned()))
}

/// `GET /read/{key}`: the body.
pub fn read(port: u16, key: &str) -> String {
    let (status, body) = http(port, "GET", &format!("/read/{key}"), "").unwrap();
    assert_eq!(status, 200, "{body}");
    body
}

/// `POST /write` of a JSON value.
pub fn write(port: u16, key: &str, value: &str, timestamp: u64) {
    let body = format!("{{\"key\": \"{key}\", \"value\": {value}, \"timestamp\": {timestamp}}}");
    let (status, body) = http(port, "POST", "/write", &body).unwrap();
    assert_eq!((status, body.as_str()), (200, "{\"status\":\"ok\"}"));
}
