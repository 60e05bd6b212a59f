//! Replicas whose every message a test delivers itself, in the order that it likes.

#![allow(dead_code, reason = "each test uses its own part of it")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use std::ops::Bound::Unbounded;

use kvquorum_core::{
    Call, Change, Coordinator, CoordinatorBuilder, Key, Record, Replica, ReplicaId, Request,
    RequestKind, Response, ScanLimit, Store, Transport, TransportError, WallClock, WriterId,
};
use kvquorum_mem::MemStore;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::advance;

/// What a request is, as far as a test tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    Repair,
    Prepare,
    /// How are you?
    Status,
    Announce,
    Enter,
    Join,
    Records,
    Copy,
    Open,
    Seal,
    Collect,
}

impl Kind {
    fn of(request: &Request) -> Option<Self> {
        Some(match request.kind {
            RequestKind::Read { .. } => Self::Read,
            RequestKind::Write { .. } => Self::Write,
            RequestKind::Repair { .. } => Self::Repair,
            RequestKind::Prepare { .. } => Self::Prepare,
            RequestKind::Status if request.era.is_none() => Self::Status,
            RequestKind::Status => Self::Enter,
            RequestKind::Announce { .. } => Self::Announce,
            RequestKind::Join { .. } => Self::Join,
            RequestKind::Records { .. } => Self::Records,
            RequestKind::Copy { .. } => Self::Copy,
            RequestKind::Open { .. } => Self::Open,
            RequestKind::Seal { .. } => Self::Seal,
            RequestKind::Collect { .. } => Self::Collect,
            _ => return None,
        })
    }
}

type Answer = Result<Response, TransportError>;

/// A request on its way.
pub struct Message {
    client: usize,
    to: usize,
    kind: Kind,
    pub request: Request,
    answer: Option<oneshot::Sender<Answer>>,
}

impl Message {
    /// The same once more; nobody waits for an answer.
    pub fn again(&self) -> Self {
        let request = self.request.clone();
        Self {
            request,
            answer: None,
            ..*self
        }
    }
}

/// An answer that is held back.
pub struct Held {
    answer: oneshot::Sender<Answer>,
    told: Answer,
}

struct Shared<const N: usize> {
    replicas: Mutex<Vec<Replica<MemStore>>>,
    messages: Mutex<Vec<Message>>,
}

/// A link of one client to one replica.
pub struct Wire<const N: usize> {
    shared: Arc<Shared<N>>,
    client: usize,
    to: usize,
}

impl<const N: usize> Transport for Wire<N> {
    fn call(&self, request: &Request) -> Call {
        // Who a replica is, it says at once.
        let Some(kind) = Kind::of(request) else {
            let replica = self.shared.replicas.lock().unwrap()[self.to].clone();
            return replica.call(request);
        };
        let (answer, answered) = oneshot::channel();
        self.shared.messages.lock().unwrap().push(Message {
            client: self.client,
            to: self.to,
            kind,
            request: request.clone(),
            answer: Some(answer),
        });
        Call::new(async move {
            match answered.await {
                Ok(answer) => answer,
                Err(lost) => Err(TransportError::NoAnswer(lost.into())),
            }
        })
    }

    fn name(&self) -> &str {
        "wire"
    }
}

/// A wall clock that stands still.
struct Wall(u64);

impl WallClock for Wall {
    fn now_millis(&self) -> u64 {
        self.0
    }
}

pub struct Stage<const N: usize> {
    shared: Arc<Shared<N>>,
    clients: AtomicU64,
    /// What is lost: nobody is told.
    lost: Mutex<Vec<Message>>,
}

const NOW: u64 = 1_000_000;

impl<const N: usize> Stage<N> {
    /// N replicas of a new cluster, which keep their ids also when they lose their data.
    pub fn new() -> Self {
        Self::of(|replica| replica.of_new_cluster())
    }

    /// N replicas that have yet to find each other new.
    pub fn not_opened() -> Self {
        Self::of(|replica| replica)
    }

    fn of(make: impl Fn(Replica<MemStore>) -> Replica<MemStore>) -> Self {
        let replica = |number: u64| {
            let id = ReplicaId::new((number + 1).try_into().unwrap());
            let replica = Replica::new(MemStore::new()).with_id(id);
            make(replica.with_wall_clock(Wall(NOW)))
        };
        Self {
            shared: Arc::new(Shared {
                replicas: Mutex::new((0..N as u64).map(replica).collect()),
                messages: Mutex::default(),
            }),
            clients: AtomicU64::new(0),
            lost: Mutex::default(),
        }
    }

    /// A coordinator whose clock is so many milliseconds ahead.
    pub fn client<const W: usize, const R: usize>(
        &self,
        ahead: i64,
    ) -> Coordinator<N, W, R, Wire<N>> {
        self.builder(ahead).build()
    }

    pub fn builder<const W: usize, const R: usize>(
        &self,
        ahead: i64,
    ) -> CoordinatorBuilder<N, W, R, Wire<N>> {
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        let wire = |to| Wire {
            shared: Arc::clone(&self.shared),
            client: number as usize,
            to,
        };
        Coordinator::builder(std::array::from_fn(wire))
            .writer(WriterId::new(number + 1))
            .wall_clock(Wall(NOW.saturating_add_signed(ahead)))
            .time_limit(Duration::from_secs(3600))
    }

    pub fn replica(&self, place: usize) -> Replica<MemStore> {
        self.shared.replicas.lock().unwrap()[place].clone()
    }

    /// A replica's process ends, and with it all that it held.
    pub fn lose(&self, place: usize) {
        let mut replicas = self.shared.replicas.lock().unwrap();
        replicas[place].store().clear();
        replicas[place] = replicas[place].restarted();
    }

    /// A replica's process ends, and begins again with its data.
    pub fn restart(&self, place: usize) {
        let mut replicas = self.shared.replicas.lock().unwrap();
        replicas[place] = replicas[place].restarted();
    }

    /// All that a replica keeps, its marks included.
    pub async fn backup(&self, place: usize) -> Vec<(Key, Record)> {
        let replica = self.replica(place);
        let scanning = replica
            .store()
            .scan((Unbounded, Unbounded), ScanLimit::NONE);
        scanning.await.unwrap()
    }

    /// A replica's process ends, and begins again with what it kept once.
    pub async fn restore(&self, place: usize, backup: &[(Key, Record)]) {
        let replica = self.replica(place);
        replica.store().clear();
        for (key, record) in backup {
            let entry = record.entry().map(Change::write);
            let anchor = record.anchor().map(Change::prepare);
            let changes = match record.anchor() < record.version() {
                true => [anchor, entry],
                false => [entry, anchor],
            };
            for change in changes.into_iter().flatten() {
                replica.store().apply(key, change).await.unwrap();
            }
        }
        assert_eq!(self.backup(place).await, backup);
        self.restart(place);
    }

    /// Lets all that can go on go on.
    pub async fn settle(&self) {
        for _ in 0..8 {
            for _ in 0..20 {
                yield_now().await;
            }
            advance(Duration::from_millis(40)).await;
        }
    }

    /// Takes the first request of this kind to each of these replicas from the network.
    pub fn take(&self, kind: Kind, replicas: &[usize]) -> Vec<Message> {
        let mut messages = self.shared.messages.lock().unwrap();
        let taken = replicas.iter().filter_map(|to| {
            let place = messages
                .iter()
                .position(|it| it.to == *to && it.kind == kind)?;
            Some(messages.remove(place))
        });
        taken.collect()
    }

    /// Loses all requests of this kind that are under way.
    pub fn lose_all(&self, kind: Kind) {
        let mut messages = self.shared.messages.lock().unwrap();
        let (lost, left) = messages.drain(..).partition(|it| it.kind == kind);
        *messages = left;
        self.lost.lock().unwrap().extend::<Vec<Message>>(lost);
    }

    /// Delivers messages, one after the other; what came of them.
    pub async fn give(&self, messages: Vec<Message>) -> Vec<Answer> {
        let mut answers = Vec::new();
        for Message {
            to,
            request,
            answer,
            ..
        } in messages
        {
            let told = self.replica(to).call(&request).await;
            match answer {
                // Who asked may have left.
                Some(answer) => drop(answer.send(told)),
                None => answers.push(told),
            }
            self.settle().await;
        }
        answers
    }

    /// Delivers requests of this kind to these replicas, and holds the answers back.
    pub async fn hold(&self, kind: Kind, replicas: &[usize]) -> Vec<Held> {
        self.settle().await;
        let mut held = Vec::new();
        for message in self.take(kind, replicas) {
            let told = self.replica(message.to).call(&message.request).await;
            held.extend(message.answer.map(|answer| Held { answer, told }));
        }
        held
    }

    /// Delivers what was held back.
    pub async fn release(&self, held: Vec<Held>) {
        for Held { answer, told } in held {
            // Who asked may have left.
            drop(answer.send(told));
            self.settle().await;
        }
    }

    pub async fn tell(&self, kind: Kind, replicas: &[usize]) {
        self.settle().await;
        let taken = self.take(kind, replicas);
        self.give(taken).await;
    }

    /// Delivers all that a client sends, but for requests of one kind, until nothing else
    /// comes.
    pub async fn through_but(&self, client: usize, but: Kind) {
        loop {
            self.settle().await;
            let next = {
                let mut messages = self.shared.messages.lock().unwrap();
                let is_next = |it: &Message| it.client == client && it.kind != but;
                let place = messages.iter().position(is_next);
                place.map(|place| messages.remove(place))
            };
            match next {
                Some(next) => drop(self.give(vec![next]).await),
                None => return,
            }
        }
    }

    /// Delivers all that a client sends, until a task of its own has ended.
    pub async fn through<A>(&self, client: usize, task: JoinHandle<A>) -> A {
        while !task.is_finished() {
            self.settle().await;
            let next = {
                let mut messages = self.shared.messages.lock().unwrap();
                let place = messages.iter().position(|it| it.client == client);
                place.map(|place| messages.remove(place))
            };
            self.give(next.into_iter().collect()).await;
        }
        task.await.unwrap()
    }
}
