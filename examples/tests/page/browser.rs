//! A browser that is driven by the DevTools protocol, over a pipe.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::chromium::{Chromium, Running};

/// For a whole scene, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// The protocol's pipe has the descriptors 3 and 4.
const SCRIPT: &str = "exec chromium \"$@\" --remote-debugging-pipe 3<&0 4>&1 >/dev/null";

pub struct Browser {
    _running: Running,
    requests: ChildStdin,
    answers: Receiver<Value>,
    next: u64,
    session: Option<String>,
    /// What came to the console.
    pub complaints: Vec<String>,
}

impl Browser {
    /// A browser with a page open, so many pixels wide.
    pub fn open(chromium: &Chromium, url: &str, width: u32) -> Self {
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", SCRIPT, "sh"]);
        let shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = chromium.start(shell, &["about:blank"]);
        let requests = running.child.stdin.take().unwrap();
        let mut messages = BufReader::new(running.child.stdout.take().unwrap());
        let (tell, answers) = channel();
        // It ends with the browser.
        thread::spawn(move || {
            let mut message = Vec::new();
            while messages
                .read_until(0, &mut message)
                .is_ok_and(|len| len > 0)
            {
                message.pop();
                if tell
                    .send(serde_json::from_slice(&message).unwrap())
                    .is_err()
                {
                    break;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            _running: running,
            requests,
            answers,
            next: 0,
            session: None,
            complaints: Vec::new(),
        };
        let targets = browser.call("Target.getTargets", json!({}));
        let targets = targets["targetInfos"].as_array().unwrap();
        let page = targets.iter().find(|target| target["type"] == "page");
        let attach = json!({"targetId": page.unwrap()["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, json!({}));
        }
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        browser.call("Emulation.setDeviceMetricsOverride", size);
        browser.call("Page.navigate", json!({"url": url}));
        browser.until(LOADED);
        browser
    }

    pub fn reload(&mut self) {
        self.run("window.isOld = true");
        self.call("Page.reload", json!({}));
        self.until(&format!("!window.isOld && {LOADED}"));
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut request = json!({"id": self.next, "method": method, "params": params});
        if let Some(session) = &self.session {
            request["sessionId"] = json!(session);
        }
        let mut request = request.to_string().into_bytes();
        request.push(0);
        self.requests.write_all(&request).unwrap();
        loop {
            let mut answer = self.answers.recv_timeout(PATIENCE).unwrap();
            let method = answer["method"].as_str().unwrap_or_default();
            if [
                "Runtime.consoleAPICalled",
                "Runtime.exceptionThrown",
                "Log.entryAdded",
            ]
            .contains(&method)
            {
                self.complaints.push(answer.to_string());
            }
            if answer["id"] == self.next {
                return answer["result"].take();
            }
        }
    }

    /// What a script comes to.
    pub fn run(&mut self, script: &str) -> Value {
        let params = json!({"expression": script, "awaitPromise": true, "returnByValue": true});
        let mut result = self.call("Runtime.evaluate", params);
        assert!(
            result.get("exceptionDetails").is_none(),
            "{script}: {result}"
        );
        result["result"]["value"].take()
    }

    /// Waits until a script comes to `true`.
    pub fn until(&mut self, script: &str) {
        let began = Instant::now();
        // Where a page is loaded, there may be no such thing yet.
        let guarded =
            format!("(() => {{ try {{ return Boolean({script}) }} catch {{ return false }} }})()");
        while self.run(&guarded) != json!(true) {
            if began.elapsed() > PATIENCE {
                let text = self.run("document.body.innerText");
                panic!("not so within {PATIENCE:?}: {script}\n{text}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn click(&mut self, what: &str) {
        let it = format!("document.querySelector({what:?})");
        self.until(&format!("{it} && !{it}.disabled && {it}.checkVisibility()"));
        self.run(&format!("{it}.click()"));
    }

    /// As if it were typed or chosen.
    pub fn set(&mut self, what: &str, value: &str) {
        self.run(&format!(
            "(() => {{ const it = document.querySelector({what:?}); it.value = {value:?}; \
             it.dispatchEvent(new Event('change', {{ bubbles: true }})) }})()"
        ));
    }

    pub fn text(&mut self, what: &str) -> String {
        let text = self.run(&format!("document.querySelector({what:?}).innerText"));
        text.as_str().unwrap_or_default().to_owned()
    }
}

const LOADED: &str = "document.querySelectorAll('#scene-list button').length > 0 && state";
