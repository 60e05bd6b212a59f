//! The page on which to play with three nodes, in a real browser.
//!
//! Needs `chromium` on the path, or `KVQUORUM_INSTALL_CHROMIUM=1` and root. Without, the
//! tests say that they were skipped.

#![cfg(unix)]

mod browser;
#[path = "../../../kvquorum-http/tests/browser/chromium.rs"]
mod chromium;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::net::{Ipv4Addr, TcpStream};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use browser::Browser;
use chromium::Chromium;
use support::{Process, are_free, example, free_base_port, http, http_with, read, wait_until};

/// `three-node page`, with messages that take no time.
struct Served {
    process: Process,
    port: u16,
    base_port: u16,
    /// Where it keeps what it has on disk.
    temporary: TempDir,
}

impl Served {
    fn start() -> Self {
        for _ in 0..10 {
            let base_port = free_base_port();
            let mut page = example("three-node");
            let temporary = tempfile::tempdir().unwrap();
            let page = page.env("TMPDIR", temporary.path());
            let page = page.args(["page", "--port", "0", "--base-port"]);
            let mut process = Process::start(page.arg(base_port.to_string()));
            let line = process.line();
            if let Some(port) = line.rsplit(':').next().and_then(|port| port.parse().ok()) {
                let served = Self {
                    process,
                    port,
                    base_port,
                    temporary,
                };
                served.act(r#"{"do": "pace", "travel_ms": 0, "by_step": false}"#);
                return served;
            }
        }
        panic!("no three ports stayed free");
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    fn post(&self, header: &str, act: &str) -> (u16, String) {
        let host = format!("Host: 127.0.0.1:{}\r\n", self.port);
        let header = format!("{host}Content-Type: application/json\r\n{header}");
        support::http_to(self.port, "POST", "/act", &header, act).unwrap()
    }

    fn act(&self, act: &str) {
        let (status, body) = self.post("", act);
        assert_eq!(status, 200, "{body}");
    }

    /// What a node answers when it is asked directly.
    fn value(&self, node: u16, key: &str) -> Value {
        let held = read(self.base_port + node, key);
        serde_json::from_str::<Value>(&held).unwrap()["value"].take()
    }

    fn values(&self, key: &str) -> [Value; 3] {
        [0, 1, 2].map(|node| self.value(node, key))
    }

    fn listens(&self, node: u16) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.base_port + node)).is_ok()
    }

    fn is_ready(&self, node: u16) -> bool {
        let answer = http(self.base_port + node, "GET", "/ready", "");
        answer.is_ok_and(|(status, _)| status == 200)
    }

    /// Ends it as Ctrl-C does. Nothing is left of it.
    fn end(mut self) {
        self.process.send(Signal::SIGINT);
        let (status, _, error) = self.process.end();
        assert!(status.success(), "{error}");
        wait_until("no node is left", || are_free(self.base_port));
        assert_eq!(fs::read_dir(self.temporary.path()).unwrap().count(), 0);
    }
}

/// What the nodes hold after each scene.
fn after_scenes() -> [(&'static str, &'static str, [Value; 3]); 7] {
    [
        (
            "experiment",
            "drink",
            [json!("juice"), json!("juice"), json!("juice")],
        ),
        (
            "failed-write",
            "drink",
            [json!("coffee"), json!("coffee"), json!("tea")],
        ),
        (
            "repair",
            "drink",
            [json!("tea"), json!("tea"), json!("tea")],
        ),
        (
            "pass",
            "cake",
            [json!("sweet"), json!("sweet"), json!("sweet")],
        ),
        (
            "rejoin",
            "drink",
            [json!("tea"), json!("tea"), json!("tea")],
        ),
        (
            "clocks",
            "lunch",
            [json!("salad"), json!("salad"), json!("salad")],
        ),
        (
            "no-overlap",
            "drink",
            [json!("juice"), json!("juice"), json!("juice")],
        ),
    ]
}

/// Catches a scene that stops half-way, or whose end is not what the nodes hold; what
/// the page's scripts complain of; and a reload that forgets.
#[test]
fn each_scene_comes_to_what_it_claims() {
    let Some(chromium) = Chromium::find() else {
        return;
    };
    let served = Served::start();
    let mut browser = Browser::open(&chromium, &served.url(), 1280);
    for (name, key, expected) in after_scenes() {
        play(&mut browser, name);
        assert_eq!(served.values(key), expected, "{name}");
        if name == "no-overlap" {
            let told = browser.text("#lines .unseen");
            assert!(
                told.contains("R + W = 1 + 1 is not more than N = 3"),
                "{told}"
            );
        }
    }
    play(&mut browser, "race");
    let [a, b, c] = served.values("cups");
    // One of two puts was lost, and none of the updates that were acknowledged.
    assert!(a == b && b == c && a.as_u64() > Some(1), "{a} {b} {c}");

    let shown = "#told, #end, #lines, #nodes";
    let all = format!("[...document.querySelectorAll({shown:?})].map((it) => it.innerText).join()");
    let before = browser.run(&all);
    browser.reload();
    browser.until("document.querySelectorAll('#lines li').length > 1");
    assert_eq!(browser.run(&all), before);
    assert_eq!(browser.complaints, Vec::<String>::new());
    served.end();
}

fn play(browser: &mut Browser, name: &str) {
    if browser.run("document.querySelector('#scenes').hidden") == json!(true) {
        browser.click("#leave");
    }
    browser.click(&format!("#scene-list [data-name={name}]"));
    browser.until(&format!(
        "state.scene?.name === {name:?} && state.scene.end"
    ));
    browser.until("document.querySelector('#end').checkVisibility()");
    let end = browser.text("#end");
    assert!(end.starts_with("✓ Checked on the nodes: "), "{name}: {end}");
}

/// Catches a control that does something else than it says, or nothing.
#[test]
fn each_control_does_what_it_says() {
    let Some(chromium) = Chromium::find() else {
        return;
    };
    let served = Served::start();
    let mut browser = Browser::open(&chromium, &served.url(), 390);
    let third = |control: &str| format!("#nodes > :nth-child(3) {control}");

    operate(&mut browser, "put", "done");
    wait_until("all hold it", || {
        served.values("drink") == [json!("tea"), json!("tea"), json!("tea")]
    });
    browser.click(&third(".run"));
    wait_until("it is killed", || !served.listens(2));
    browser.set("[name=value]", "milk");
    browser.set("[name=w]", "3");
    operate(&mut browser, "put", "maybe_applied");
    // It failed at once: the other two may yet have been writing.
    wait_until("the others hold it", || {
        served.value(0, "drink") == json!("milk") && served.value(1, "drink") == json!("milk")
    });
    browser.until("document.querySelector('.node.down .run').innerText === 'Start'");
    browser.click(&third(".run"));
    wait_until("it has its data", || {
        served.is_ready(2) && served.value(2, "drink") == json!("tea")
    });
    browser.set("[name=w]", "4");
    operate(&mut browser, "put", "does_not_compile");
    browser.set("[name=w]", "2");

    // A pass brings what node 3 missed.
    browser.click("#pass");
    wait_until("it is repaired", || {
        served.value(2, "drink") == json!("milk")
    });

    // What is cut stays away, and so does what is lost.
    for (name, is_lost) in [("to", true), ("back", false)] {
        browser.run(&format!(
            "document.querySelector('{} details').open = true",
            third("")
        ));
        browser.click(&third(&format!("[name={name}]")));
        browser.until(&format!("state.nodes[2].link.{name}"));
        browser.set("[name=value]", name);
        operate(&mut browser, "put", "done");
        wait_until("the others hold it", || {
            served.value(1, "drink") == json!(name)
        });
        assert_eq!(served.value(2, "drink") != json!(name), is_lost);
        browser.click("#heal");
        browser.until(&format!("!state.nodes[2].link.{name}"));
        operate(&mut browser, "get", "done");
        wait_until("it is repaired", || served.value(2, "drink") == json!(name));
    }

    browser.click(&third(".pause"));
    browser.until("document.querySelector('.node.paused .pause').innerText === 'Go on'");
    browser.click(&third(".pause"));
    wait_until("it goes on", || served.is_ready(2));

    browser.click(&third(".wipe"));
    browser.until("state.nodes[2].is === 'joining'");
    assert!(!served.is_ready(2));
    browser.click(&third(".rejoin"));
    wait_until("it has rejoined", || served.is_ready(2));
    assert_eq!(served.value(2, "drink"), json!("back"));

    operate(&mut browser, "delete", "done");
    wait_until("it is deleted", || {
        served.values("drink") == [Value::Null, Value::Null, Value::Null]
    });
    operate(&mut browser, "increment", "done");
    wait_until("it is counted", || {
        served.values("drink") == [json!(1), json!(1), json!(1)]
    });

    // Ahead of all that B has seen.
    browser.set("#clock-B", "20");
    browser.until("state.ahead_ms[1] === 20000");
    browser.click("[name=by][value=B]");
    let before = timestamp(&served);
    operate(&mut browser, "put", "done");
    wait_until("it is later", || timestamp(&served) > before + 10_000);

    // Step by step it waits for a step: three requests, and two answers.
    browser.click("#by-step");
    browser.until("state.pace.by_step");
    browser.run("window.seen = lastId");
    browser.click("#operation [value=get]");
    browser.until("document.querySelectorAll('.chip').length === 3");
    assert_eq!(browser.run("lastId - window.seen"), json!(0));
    browser.until("document.querySelector('#step').click() ?? lastId > window.seen");
    assert_eq!(browser.complaints, Vec::<String>::new());

    // Whoever closes the page leaves the nodes alone.
    drop(browser);
    assert!([0, 1, 2].into_iter().all(|node| served.is_ready(node)));
    // Nor does one that is stopped outlive Ctrl-C.
    served.act(r#"{"do": "node", "node": 1, "what": "pause"}"#);
    served.end();
}

fn operate(browser: &mut Browser, op: &str, verdict: &str) {
    browser.run("window.seen = lastId");
    browser.click(&format!("#operation [value={op}]"));
    browser.until("lastId > window.seen && newLines.length === 0");
    let class = browser.run("document.querySelector('#lines li').className");
    assert_eq!(class, json!(verdict), "{}", browser.text("#lines li"));
}

fn timestamp(served: &Served) -> u64 {
    let held: Value = serde_json::from_str(&read(served.base_port, "drink")).unwrap();
    held["timestamp"].as_u64().unwrap()
}

/// Catches links that lose or delay nothing, a coordinator of other quorums than were
/// chosen, and operations that are not begun.
#[test]
fn links_delay_and_lose_and_quorums_are_those_chosen() {
    let Some(chromium) = Chromium::find() else {
        return;
    };
    let served = Served::start();
    let mut browser = Browser::open(&chromium, &served.url(), 1280);
    let third = |control: &str| format!("#nodes > :nth-child(3) {control}");

    // Too late for the coordinator, and not too late to be stored.
    operate(&mut browser, "put", "done");
    browser.set(&third("[name=delay_ms]"), "3000");
    browser.until("state.nodes[2].link.delay_ms === 3000");
    browser.set("[name=value]", "late");
    browser.set("[name=w]", "3");
    operate(&mut browser, "put", "maybe_applied");
    assert!(
        browser
            .text("#lines .says")
            .contains("node 3: no answer within 2s")
    );
    wait_until("it comes late", || {
        served.value(2, "drink") == json!("late")
    });
    browser.click("#heal");
    browser.until("state.nodes[2].link.delay_ms === 0");

    let all = r#"{"to": false, "back": false, "delay_ms": 0, "lose_percent": 100}"#;
    served.act(&format!(r#"{{"do": "link", "node": 2, "faults": {all}}}"#));
    browser.set("[name=value]", "lost");
    operate(&mut browser, "put", "maybe_applied");
    assert_eq!(served.value(2, "drink"), json!("late"));
    browser.click("#heal");
    browser.until("state.nodes[2].link.lose_percent === 0");

    for (n, held) in [
        (1, [json!(1), Value::Null, Value::Null]),
        (2, [json!(1), json!(1), Value::Null]),
    ] {
        let key = format!("of-{n}");
        browser.set("[name=key]", &key);
        browser.set("[name=value]", "1");
        for name in ["n", "w", "r"] {
            browser.set(&format!("[name={name}]"), &n.to_string());
        }
        operate(&mut browser, "put", "done");
        assert_eq!(served.values(&key), held);
    }
    browser.set("[name=n]", "3");
    browser.set("[name=w]", "1");
    browser.set("[name=r]", "3");
    operate(&mut browser, "increment", "does_not_compile");
    assert!(
        browser
            .text("#lines .says")
            .contains("write quorums that overlap, 2 W > N")
    );

    browser.click("#load");
    browser.until("state.per_second === 100");
    wait_until("there is something", || {
        served.value(0, "load%203") != Value::Null
    });
    browser.until("document.querySelectorAll('#lines li').length === 50");
    browser.click("#load");
    browser.until("state.per_second === 0");
    assert_eq!(browser.complaints, Vec::<String>::new());
    served.end();
}

/// Catches a scene that does not wait to be read, or that goes on when it is left.
#[test]
fn a_scene_waits_for_next() {
    let Some(chromium) = Chromium::find() else {
        return;
    };
    let served = Served::start();
    let mut browser = Browser::open(&chromium, &served.url(), 390);
    browser.click("#plays-on");
    browser.click("#scene-list [data-name=rejoin]");
    for step in 1..4 {
        browser.until(&format!(
            "state.scene?.told.length === {step} && state.scene.waits"
        ));
        browser.click("#next");
    }
    browser.until("state.scene.end?.is_as_told");
    browser.click("#leave");
    browser.until("state.scene === null && document.querySelector('#scenes').checkVisibility()");
    browser.click("#scene-list [data-name=failed-write]");
    browser.until("state.scene?.waits");
    browser.click("#leave");
    browser.until("state.scene === null");
    assert_eq!(
        served.values("drink"),
        [json!("tea"), json!("tea"), json!("tea")]
    );
    served.end();
}

/// Catches a page of another site that reaches the nodes by way of the browser.
#[test]
fn other_origins_are_refused() {
    let served = Served::start();
    let wipe = r#"{"do": "node", "node": 2, "what": "wipe"}"#;
    for header in [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ] {
        assert_eq!(served.post(header, wipe).0, 403, "{header}");
    }
    // By the name of another server (DNS rebinding), and by a form.
    let (status, _) = http_with(served.port, "POST", "/act", "", wipe).unwrap();
    assert_eq!(status, 403);
    let host = format!("Host: localhost:{}\r\n", served.port);
    let form = format!("{host}Content-Type: text/plain\r\n");
    let posted = support::http_to(served.port, "POST", "/act", &form, wipe).unwrap();
    assert_eq!(posted.0, 415);
    assert!(served.is_ready(2));
    let own = format!(
        "Origin: http://127.0.0.1:{}\r\nSec-Fetch-Site: same-origin\r\n",
        served.port
    );
    assert_eq!(served.post(&own, wipe).0, 200);
    assert!(!served.is_ready(2));
    served.end();
}
