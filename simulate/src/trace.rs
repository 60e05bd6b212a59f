//! What happened, as a hash and, on demand, as a timeline.

use std::fmt::Write as _;

/// Who did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    World,
    Client(usize),
    Replica(usize),
}

/// Every event of a run goes into the hash; the lines are kept only where
/// somebody is going to read them.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: Option<Vec<(u64, Who, String)>>,
    ended: bool,
}

impl Trace {
    pub fn new(keep_lines: bool) -> Self {
        Self {
            // FNV-1a: its numbers are the same on every machine and version.
            hash: 0xcbf2_9ce4_8422_2325,
            lines: keep_lines.then(Vec::new),
            ended: false,
        }
    }

    pub fn event(&mut self, micros: u64, who: Who, what: &[u64], line: impl FnOnce() -> String) {
        if self.ended {
            return;
        }
        let (kind, index) = match who {
            Who::World => (0, 0),
            Who::Client(index) => (1, index as u64),
            Who::Replica(index) => (2, index as u64),
        };
        for number in [micros, kind, index].iter().chain(what) {
            for byte in number.to_le_bytes() {
                self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        if let Some(lines) = &mut self.lines {
            lines.push((micros, who, line()));
        }
    }

    /// Nothing that comes now is of interest.
    pub fn end(&mut self) {
        self.ended = true;
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// One line for each event: when, and in whose column.
    pub fn timeline(&self, clients: usize, replicas: usize) -> String {
        let mut text = String::from("   time in ms  ");
        for client in 0..clients {
            let _ = write!(text, "c{client:<2}");
        }
        text.push(' ');
        for replica in 0..replicas {
            let _ = write!(text, "r{replica:<2}");
        }
        text.push('\n');
        for (micros, who, line) in self.lines.iter().flatten() {
            let _ = write!(text, "{:>9}.{:03}  ", micros / 1_000, micros % 1_000);
            let columns = |text: &mut String, count: usize, here: Option<usize>| {
                for column in 0..count {
                    text.push_str(if here == Some(column) {
                        "●  "
                    } else {
                        "·  "
                    });
                }
            };
            let (client, replica) = match who {
                Who::World => (None, None),
                Who::Client(client) => (Some(*client), None),
                Who::Replica(replica) => (None, Some(*replica)),
            };
            columns(&mut text, clients, client);
            text.push(' ');
            columns(&mut text, replicas, replica);
            let _ = writeln!(text, " {line}");
        }
        text
    }
}
