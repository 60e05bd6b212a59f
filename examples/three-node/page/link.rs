//! The links between coordinators and nodes: each shows what travels on it, slowed
//! down enough to be seen, and does with it as it is told.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvquorum_core::{
    Ack, Call, Refusal, Request, RequestKind, Response, Told, Transport, TransportError, WithCauses,
};
use kvquorum_http::HttpTransport;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::sleep;

use super::events::Events;
use super::quorums::shown;

/// How many messages may be on their way.
const MAX_MESSAGES: usize = 1024;

/// How long a node has to answer what nobody waits for any more. Only then it is dropped:
/// what comes late is stored as well.
const GRACE: Duration = Duration::from_secs(1);

const NAMES: [&str; 3] = ["node 1", "node 2", "node 3"];

/// One of the two coordinators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Side {
    A,
    B,
}

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Faults {
    /// Nothing gets to the node.
    pub(super) to: bool,
    /// Nothing comes back from it.
    pub(super) back: bool,
    /// How long each message is delayed each way.
    pub(super) delay_ms: u16,
    /// Which share of messages is lost each way.
    pub(super) lose_percent: u8,
}

impl Faults {
    pub(super) const CUT: Self = Self {
        to: true,
        back: true,
        delay_ms: 0,
        lose_percent: 0,
    };
}

/// How fast messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pace {
    /// How long each way takes.
    pub(super) travel_ms: u16,
    /// Each waits for a step instead.
    pub(super) by_step: bool,
}

/// What all links have in common.
pub(super) struct Links {
    pub(super) events: Arc<Events>,
    nodes: [HttpTransport; 3],
    faults: Mutex<[Faults; 3]>,
    pace: watch::Sender<Pace>,
    steps: Semaphore,
    waiting: AtomicUsize,
    places: Arc<Semaphore>,
    next: AtomicU64,
}

/// Where a message is, as the page shows it.
#[derive(Serialize)]
struct Seen<'a> {
    id: u64,
    node: usize,
    by: Side,
    at: At,
    /// What it says.
    says: &'a str,
    is_good: bool,
    /// How long it takes from here.
    ms: u64,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum At {
    /// On its way to the node.
    Sent,
    /// An answer is on its way back.
    Answered,
    /// Lost on its way to the node.
    LostThere,
    /// Lost on its way back.
    LostBack,
    /// The call is over.
    Over,
}

impl Links {
    pub(super) fn new(events: Arc<Events>, nodes: [HttpTransport; 3], pace: Pace) -> Arc<Self> {
        Arc::new(Self {
            events,
            nodes,
            faults: Mutex::default(),
            pace: watch::Sender::new(pace),
            steps: Semaphore::new(0),
            waiting: AtomicUsize::new(0),
            places: Arc::new(Semaphore::new(MAX_MESSAGES)),
            next: AtomicU64::new(0),
        })
    }

    pub(super) fn faults(&self) -> [Faults; 3] {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_faults(&self, node: usize, faults: Faults) {
        let mut all = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = all.get_mut(node) {
            *link = faults;
        }
    }

    pub(super) fn heal(&self) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
    }

    pub(super) fn pace(&self) -> Pace {
        *self.pace.borrow()
    }

    pub(super) fn set_pace(&self, pace: Pace) {
        self.pace.send_replace(pace);
    }

    /// Lets the message that waits the longest go on.
    pub(super) fn step(&self) {
        if self.waiting.load(Ordering::SeqCst) > self.steps.available_permits() {
            self.steps.add_permits(1);
        }
    }

    /// Waits as long as a message takes one way.
    async fn travel(&self, node: usize) {
        let mut pace = self.pace.subscribe();
        loop {
            let now = *pace.borrow_and_update();
            if !now.by_step {
                sleep(Duration::from_millis(now.travel_ms.into())).await;
                break;
            }
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let is_let_go = tokio::select! {
                biased;
                permit = self.steps.acquire() => permit.map(|permit| permit.forget()).is_ok(),
                changed = pace.changed() => changed.is_err(),
            };
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            if is_let_go {
                break;
            }
        }
        let delay = self.fault(node).delay_ms;
        if delay > 0 {
            sleep(Duration::from_millis(delay.into())).await;
        }
    }

    fn fault(&self, node: usize) -> Faults {
        self.faults().get(node).copied().unwrap_or_default()
    }

    fn loses(&self, node: usize) -> bool {
        let percent = self.fault(node).lose_percent;
        percent > 0 && RandomState::new().hash_one(()) % 100 < percent.into()
    }
}

/// What a coordinator reaches a node by.
pub(super) struct Link {
    links: Arc<Links>,
    node: usize,
    by: Side,
}

impl Link {
    pub(super) fn new(links: &Arc<Links>, node: usize, by: Side) -> Self {
        let links = Arc::clone(links);
        Self { links, node, by }
    }
}

impl Transport for Link {
    fn call(&self, request: &Request) -> Call {
        let links = Arc::clone(&self.links);
        let Ok(place) = Arc::clone(&links.places).try_acquire_owned() else {
            let full = format!("{MAX_MESSAGES} messages are on their way already");
            return Call::Ready(Err(TransportError::NotSent(full.into())));
        };
        let trip = Trip {
            id: links.next.fetch_add(1, Ordering::Relaxed),
            links,
            node: self.node,
            by: self.by,
            // Every coordinator asks every node once who it is. That is only shown where it
            // fails.
            is_shown: !matches!(request.kind, RequestKind::Identify { .. }),
        };
        let (answer, answered) = oneshot::channel();
        let request = request.clone();
        // A task, so that what has set out arrives, whoever still waits for it.
        tokio::spawn(async move {
            trip.run(request, answer).await;
            drop(place);
        });
        Call::new(async move {
            match answered.await {
                Ok(result) => result,
                // It is lost. The coordinator's time limit tells.
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn name(&self) -> &str {
        NAMES.get(self.node).copied().unwrap_or("a node")
    }
}

type Answer = Result<Response, TransportError>;

/// One call: a message there, and one back.
struct Trip {
    links: Arc<Links>,
    id: u64,
    node: usize,
    by: Side,
    is_shown: bool,
}

impl Trip {
    async fn run(self, request: Request, mut answer: oneshot::Sender<Answer>) {
        let (links, node) = (&self.links, self.node);
        let says = asks(&request.kind);
        self.show(At::Sent, says, true);
        self.travel().await;
        if links.fault(node).to || links.loses(node) {
            return self.show(At::LostThere, &format!("{says}: lost"), false);
        }
        let given_up = async {
            answer.closed().await;
            sleep(GRACE).await;
        };
        let result = tokio::select! {
            biased;
            result = self.deliver(&request) => result,
            () = given_up => return self.show(At::Over, "no answer in time", false),
        };
        let (says, is_good) = answers(&result);
        if matches!(result, Err(TransportError::NotSent(_))) {
            // Nobody is there who would send anything back.
            self.show(At::Over, &says, false);
            let _ = answer.send(result);
            return;
        }
        self.show(At::Answered, &says, is_good);
        self.travel().await;
        if links.fault(node).back || links.loses(node) {
            return self.show(At::LostBack, &format!("{says}: lost"), false);
        }
        match answer.send(result) {
            Ok(()) => self.show(At::Over, &says, is_good),
            Err(_) => self.show(At::Over, &format!("{says}: too late"), false),
        }
    }

    async fn deliver(&self, request: &Request) -> Answer {
        match self.links.nodes.get(self.node) {
            Some(node) => node.call(request).await,
            None => Err(TransportError::NotSent("there is no such node".into())),
        }
    }

    async fn travel(&self) {
        if self.is_shown {
            self.links.travel(self.node).await;
        }
    }

    fn show(&self, at: At, says: &str, is_good: bool) {
        if !self.is_shown && is_good {
            return;
        }
        let delay = u64::from(self.links.fault(self.node).delay_ms);
        self.links.events.send(
            "message",
            &Seen {
                id: self.id,
                node: self.node,
                by: self.by,
                at,
                says,
                is_good,
                ms: delay.saturating_add(self.links.pace().travel_ms.into()),
            },
        );
    }
}

/// A request in a word.
fn asks(kind: &RequestKind) -> &'static str {
    match kind {
        RequestKind::Read { .. } => "read",
        RequestKind::Write { entry, .. } if entry.value.is_none() => "delete",
        RequestKind::Write { .. } => "write",
        RequestKind::Repair { .. } => "repair",
        RequestKind::Scan { .. } => "scan",
        RequestKind::Prepare { .. } => "prepare",
        RequestKind::Fingerprint(_) => "fingerprints?",
        RequestKind::Versions(_) => "versions?",
        RequestKind::Status => "how are you?",
        RequestKind::Announce { .. } => "announce era",
        RequestKind::Forget { .. } => "forget",
        RequestKind::Join { .. } => "join",
        RequestKind::Records { .. } => "records?",
        RequestKind::Copy { .. } => "copy",
        RequestKind::Open { .. } => "open",
        RequestKind::Seal { .. } => "seal",
        RequestKind::Collect { .. } => "collect",
        RequestKind::Sweep { .. } => "sweep",
        RequestKind::Identify { .. } => "who are you?",
        _ => "request",
    }
}

/// An answer in few words, and whether it is one that counts.
fn answers(result: &Answer) -> (String, bool) {
    let response = match result {
        Ok(response) => response,
        Err(TransportError::NotSent(_)) => return ("not reached".to_owned(), false),
        Err(error) => return (WithCauses(error).to_string(), false),
    };
    let says = match response {
        Response::Entry(held) | Response::Promise(held) => match (&held.entry, response) {
            (Some(entry), _) => match &entry.value {
                Some(value) => shown(value).chars().take(12).collect(),
                None => "tombstone".to_owned(),
            },
            (None, Response::Promise(_)) => "promise".to_owned(),
            (None, _) => "nothing".to_owned(),
        },
        Response::Ack(Ack::Applied) => "ack".to_owned(),
        Response::Ack(Ack::Superseded { .. }) => "ack, superseded".to_owned(),
        Response::Refused(Refusal::Joining { .. }) => "joining".to_owned(),
        Response::Refused(Refusal::TooFarAhead { .. }) => "too far ahead".to_owned(),
        Response::Refused(Refusal::Stale { .. }) => "old era".to_owned(),
        Response::Refused(Refusal::Before { .. }) => "too late".to_owned(),
        Response::Refused(_) => "refused".to_owned(),
        Response::Told(told) => match &**told {
            Told::Windows(_) => "fingerprints".to_owned(),
            Told::Versions(_) => "versions".to_owned(),
            Told::Records(_) => "records".to_owned(),
            _ => "noted".to_owned(),
        },
        _ => "answer".to_owned(),
    };
    (says, !matches!(response, Response::Refused(_)))
}
