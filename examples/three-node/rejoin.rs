//! How a node becomes ready whose replica is joining, and how that is told.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Response, StatusCode};
use kvquorum_core::{
    Coordinator, Readiness, Replica, Request, Response as Answer, Status, Store, StoreError, Told,
    Transport, WithCauses,
};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::client::Nodes;
use crate::layout::say;
use crate::watch::answer;

/// How long a node may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between attempts: twice as long after each, a half more or less.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A node's replica first, and then those of its peers.
pub(crate) type Map = Coordinator<3, 2, 2, Arc<dyn Transport>>;

/// A node's replica on its way to be ready. Clones share what is known of it.
pub(crate) struct Rejoining<S> {
    pub(crate) replica: Replica<S>,
    last: Arc<Mutex<Option<Attempt>>>,
}

/// The last attempt that failed.
#[derive(Clone, Serialize)]
struct Attempt {
    /// Why.
    error: String,
    /// How each peer was.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    peers: BTreeMap<String, &'static str>,
}

/// What `GET /ready` says.
#[derive(Serialize)]
struct Ready {
    status: &'static str,
    /// How many keys were copied so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    copied: Option<u64>,
    #[serde(flatten)]
    last: Option<Attempt>,
}

impl<S: Store> Rejoining<S> {
    pub(crate) fn new(replica: Replica<S>) -> Self {
        Self {
            replica,
            last: Arc::default(),
        }
    }

    /// Has the replica rejoin as long as it is joining.
    pub(crate) async fn until_ready(&self, map: &Map) {
        let mut pause = FIRST_PAUSE;
        let mut is_joining = false;
        loop {
            let error = match self.attempt(map).await {
                Ok(Readiness::Ready) => break,
                Ok(_) => None,
                Err(error) => Some(WithCauses(&*error).to_string()),
            };
            if let Some(error) = error {
                if !is_joining {
                    tracing::warn!(error, "the replica is joining, and is not ready yet");
                }
                is_joining = true;
                self.note(error, map).await;
            }
            sleep(about(pause)).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
        if is_joining {
            tracing::info!("the replica is ready");
        }
    }

    /// Tries it once, where it is joining. Returns how it is then.
    async fn attempt(&self, map: &Map) -> Result<Readiness, Box<dyn Error + Send + Sync>> {
        let before = self.replica.readiness().await?;
        if before == Readiness::Ready {
            return Ok(before);
        }
        map.rejoin(0).run().await?;
        Ok(self.replica.readiness().await?)
    }

    async fn note(&self, error: String, map: &Map) {
        let [_, one, other] = map.transports();
        let (of_one, of_other) = tokio::join!(status(one), status(other));
        let peers = [(one, of_one), (other, of_other)];
        let peers =
            peers.map(|(peer, status)| (peer.name().to_owned(), in_a_word(status.as_ref())));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Attempt {
            error,
            peers: peers.into(),
        });
    }

    /// 200 where the replica answers requests, 503 where it does not yet.
    pub(crate) async fn ready(&self) -> Response<Bytes> {
        let ready = match timeout(PATIENCE, self.replica.readiness()).await {
            Ok(readiness) => self.said(readiness),
            Err(_) => failing(format!("no answer within {PATIENCE:?}")),
        };
        let status = match ready.status {
            READY => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut text = serde_json::to_string(&ready).unwrap_or_default();
        let _ = writeln!(text);
        answer(status, "application/json", text)
    }

    fn said(&self, readiness: Result<Readiness, StoreError>) -> Ready {
        let last = self.last.lock();
        let last = last.unwrap_or_else(PoisonError::into_inner).clone();
        let (status, copied, last) = match readiness {
            Ok(Readiness::Ready) => (READY, None, None),
            Ok(Readiness::Copying { copied }) => ("copying", Some(copied), last),
            Ok(_) => ("waiting", None, last),
            Err(error) => return failing(WithCauses(&error).to_string()),
        };
        Ready {
            status,
            copied,
            last,
        }
    }
}

const READY: &str = "ready";

fn failing(error: String) -> Ready {
    Ready {
        status: "failing",
        copied: None,
        last: Some(Attempt {
            error,
            peers: BTreeMap::new(),
        }),
    }
}

/// So that nodes that start together do not try together for ever.
fn about(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 1000;
    let percent = u32::try_from(random / 10).unwrap_or(0).saturating_add(50);
    pause.saturating_mul(percent) / 100
}

/// How a replica is; `None` where it does not say so.
async fn status(link: &impl Transport) -> Option<Status> {
    match timeout(PATIENCE, link.call(&Request::status())).await {
        Ok(Ok(Answer::Told(told))) => match *told {
            Told::Status(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a node is ready.
pub(crate) fn in_a_word(status: Option<&Status>) -> &'static str {
    match status {
        None => "not reachable",
        Some(status) if status.marks.is_joining => "joining",
        Some(_) => READY,
    }
}

impl<S> Clone for Rejoining<S> {
    fn clone(&self) -> Self {
        Self {
            replica: self.replica.clone(),
            last: Arc::clone(&self.last),
        }
    }
}

#[derive(clap::Args)]
pub(crate) struct AcceptLoss {
    /// Which of the nodes, as host:port
    node: String,

    /// Do it, and lose what may be lost
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    nodes: Nodes,
}

/// Makes a node ready with what the others still have.
pub(crate) async fn accept_loss(arguments: AcceptLoss) -> Result<(), Box<dyn Error>> {
    let AcceptLoss { node, yes, nodes } = arguments;
    let links = nodes.links()?;
    let names = links.each_ref().map(|link| link.name().to_owned());
    let place = names.iter().position(|name| *name == node);
    let place = place.ok_or_else(|| format!("{node} is none of the nodes: see --nodes"))?;
    let [a, b, c] = &links;
    let (a, b, c) = tokio::join!(status(a), status(b), status(c));
    let all = names.iter().zip([a, b, c]);
    let all: Vec<_> = all
        .map(|(name, it)| (name, in_a_word(it.as_ref())))
        .collect();
    match all.get(place) {
        Some((_, READY)) => return Err(format!("{node} is ready, and nothing is lost").into()),
        Some((_, "joining")) => {}
        _ => return Err(format!("{node} is not reachable").into()),
    }
    let sound = all.iter().filter(|(_, it)| *it == READY);
    let sound: Vec<&str> = sound.map(|(name, _)| name.as_str()).collect();
    let lost = match sound.as_slice() {
        [] => "whatever was acknowledged may be lost: none of the other nodes is ready".to_owned(),
        sound => format!(
            "whatever was acknowledged and is not on {} may be lost",
            sound.join(" or ")
        ),
    };
    if !yes {
        return Err(format!("{lost}; --yes accepts that").into());
    }
    say(&lost);
    let map = Coordinator::<3, 2, 2, _>::new(links);
    let done = map.accept_loss(place).run().await?;
    say(&format!(
        "{node} is ready: {} keys were copied to it",
        done.copied
    ));
    Ok(())
}
