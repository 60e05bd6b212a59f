//! What the page is told of, as server-sent events.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::broadcast;

/// How many events a page may be behind. One that is further behind begins anew.
const BEHIND: usize = 1024;

/// How many operations the time line holds.
const LINES: usize = 50;

/// An event, as it goes over the wire.
pub(super) type Event = Arc<str>;

pub(super) struct Events {
    sender: broadcast::Sender<Event>,
    last: Mutex<Last>,
}

/// What a page that comes later has to know.
#[derive(Default)]
struct Last {
    /// How everything is, in JSON.
    state: String,
    /// The time line, each line in JSON.
    lines: VecDeque<String>,
}

impl Events {
    pub(super) fn new() -> Arc<Self> {
        let sender = broadcast::Sender::new(BEHIND);
        let last = Mutex::default();
        Arc::new(Self { sender, last })
    }

    pub(super) fn send(&self, name: &str, data: &impl Serialize) {
        // Nobody may be there to see it, which is nobody's error.
        if self.sender.receiver_count() > 0 {
            let _ = self.sender.send(event(name, &json(data)));
        }
    }

    /// Tells how everything is, if that has changed.
    pub(super) fn tell_state(&self, state: &impl Serialize) {
        let state = json(state);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.state != state {
            let _ = self.sender.send(event("state", &state));
            last.state = state;
        }
    }

    /// Adds to the time line.
    pub(super) fn add_line(&self, line: &impl Serialize) {
        let line = json(line);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.sender.send(event("line", &line));
        last.lines.push_back(line);
        if last.lines.len() > LINES {
            last.lines.pop_front();
        }
    }

    /// What there is to know now, in JSON, and what comes after.
    pub(super) fn subscribe(&self) -> (String, broadcast::Receiver<Event>) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = last.lines.iter().map(String::as_str).collect::<Vec<_>>();
        let state = match last.state.as_str() {
            "" => "null",
            state => state,
        };
        let all = format!("{{\"state\":{state},\"lines\":[{}]}}", lines.join(","));
        (all, self.sender.subscribe())
    }
}

pub(super) fn event(name: &str, json: &str) -> Event {
    format!("event: {name}\ndata: {json}\n\n").into()
}

fn json(data: &impl Serialize) -> String {
    serde_json::to_string(data).unwrap_or_else(|error| format!("\"{error}\""))
}
