//! What an operator sees of a node: its log, its metrics and its health.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use kvquorum_core::{Replica, Request, Response as Answer, Store, Transport, WithCauses};
use kvquorum_http::{ReplicaService, ReplicaServiceBuilder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Serialize;
use tokio::time::{interval, timeout};
use tracing_subscriber::EnvFilter;

use crate::rejoin::Rejoining;

/// How long a node has to say that it is well.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often what was measured is taken in. Until then it takes memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// From a tenth of a millisecond to the time limit of a call, and beyond.
const SECONDS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];
const COUNTS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1024.0];

/// Whether a store takes writes.
pub(crate) type Checked = Result<(), Box<dyn Error + Send + Sync>>;

/// How each line of the log is written.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object in each line.
    Json,
}

/// Logs to stderr what `RUST_LOG` asks for; by default what an operator should know.
pub(crate) fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Records metrics from now on.
pub(crate) fn record() -> Result<PrometheusHandle, Box<dyn Error>> {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    let builder = PrometheusBuilder::new()
        .set_buckets(&COUNTS)?
        .set_buckets_for_metric(seconds, &SECONDS)?;
    let recorded = builder.install_recorder()?;
    let kept = recorded.clone();
    tokio::spawn(async move {
        let mut due = interval(UPKEEP);
        loop {
            due.tick().await;
            kept.run_upkeep();
        }
    });
    Ok(recorded)
}

/// What a node serves: its replica, `GET /metrics`, `GET /health` and `GET /ready`.
pub(crate) fn serve<S: Store, F: Future<Output = Checked> + Send + 'static>(
    service: ReplicaServiceBuilder<S>,
    rejoining: &Rejoining<S>,
    recorded: PrometheusHandle,
    check: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> ReplicaService<S> {
    let metrics = move || {
        let text = recorded.render();
        async { answer(StatusCode::OK, "text/plain; version=0.0.4", text) }
    };
    let (rejoining, replica) = (rejoining.clone(), rejoining.replica.clone());
    let ready = move || {
        let rejoining = rejoining.clone();
        async move { rejoining.ready().await }
    };
    let health = move || {
        let (replica, check) = (replica.clone(), check.clone());
        async move { health(&replica, check()).await }
    };
    let service = service.route("/metrics", metrics);
    let service = service.public_route("/health", health);
    service.public_route("/ready", ready).build()
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    /// Why it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Which replica it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<String>,
    /// Those that coordinators called with. More than one is a mistake.
    quorums: Vec<String>,
}

/// 200 where the store can be read and takes writes, 503 where not.
async fn health<S: Store>(
    replica: &Replica<S>,
    check: impl Future<Output = Checked>,
) -> Response<Bytes> {
    let asked = async {
        check.await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(replica.call(&Request::identify()).await?)
    };
    let asked = timeout(PATIENCE, asked).await;
    let mut health = Health {
        status: "ok",
        error: None,
        replica: None,
        quorums: Vec::new(),
    };
    match asked {
        Ok(Ok(Answer::Identity(identity))) => {
            health.replica = Some(identity.id.to_string());
            health.quorums = identity.quorums.iter().map(ToString::to_string).collect();
        }
        Ok(Ok(_)) => health.error = Some("the replica does not say who it is".to_owned()),
        Ok(Err(error)) => health.error = Some(WithCauses(&*error).to_string()),
        Err(_) => health.error = Some(format!("no answer within {PATIENCE:?}")),
    }
    let status = match health.error {
        None => StatusCode::OK,
        Some(_) => {
            health.status = "failing";
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let mut text = serde_json::to_string(&health).unwrap_or_default();
    let _ = writeln!(text);
    answer(status, "application/json", text)
}

pub(crate) fn answer(
    status: StatusCode,
    content_type: &'static str,
    text: String,
) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(text));
    *answer.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}
