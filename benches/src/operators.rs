//! Replicas and coordinators as operators have them: their metrics recorded, or over
//! TLS.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;
use std::{env, fs, thread};

use kvquorum_core::{Coordinator, Replica};
use kvquorum_http::{ClientTls, HttpTransport, ReplicaService, Server, ServerBuilder, ServerTls};
use kvquorum_mem::MemStore;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::http::ServerProcess;
use crate::http::server::serve_until_told;

/// How often what was recorded is taken in, where time is measured.
const UPKEEP: Duration = Duration::from_millis(250);

/// As many as a histogram usually has.
const BUCKETS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];

static RECORDER: OnceLock<PrometheusRecorder> = OnceLock::new();

fn recorder() -> PrometheusRecorder {
    let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).unwrap();
    builder.build_recorder()
}

/// Takes in what was recorded, which is part of what recording costs.
pub fn take_in() {
    if let Some(recorder) = RECORDER.get() {
        recorder.handle().run_upkeep();
    }
}

/// Takes it in from now on.
pub fn take_in_regularly() {
    thread::spawn(|| {
        loop {
            thread::sleep(UPKEEP);
            take_in();
        }
    });
}

/// What tells a process that it is a server, before its way.
const SERVE: &str = "--serve-as";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing.
    Plain,
    /// What metrics tell.
    Recorded,
    /// TLS.
    Tls,
}

impl Way {
    /// All, the plain one first.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Recorded, Self::Tls];

    /// As it stands in ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Recorded => "recorded",
            Self::Tls => "tls",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Self {
        let mut ways = Self::ALL.into_iter();
        ways.find(|way| way.name() == name).unwrap()
    }

    /// What is registered by what `make` makes is recorded, if that is the way.
    pub fn make<T>(self, make: impl FnOnce() -> T) -> T {
        match (self, RECORDER.get_or_init(recorder)) {
            (Self::Recorded, recorder) => metrics::with_local_recorder(recorder, make),
            _ => make(),
        }
    }

    /// A replica's server.
    pub fn server(self) -> (ServerBuilder, ReplicaService<MemStore>) {
        let service =
            self.make(|| ReplicaService::new(Replica::new(MemStore::new()).of_new_cluster()));
        let server = match self {
            Self::Plain | Self::Recorded => Server::builder(),
            Self::Tls => {
                let [certificate, key] = pem_files();
                Server::builder().tls(ServerTls::from_pem(certificate, key).unwrap())
            }
        };
        (server, service)
    }

    /// A coordinator of replicas at these addresses.
    pub fn coordinator(self, addresses: [String; 3]) -> Coordinator<3, 2, 2, HttpTransport> {
        let link = |address: String| match self {
            Self::Plain | Self::Recorded => HttpTransport::new(address).unwrap(),
            Self::Tls => {
                let [certificate, _] = pem_files();
                let link = HttpTransport::builder(format!("https://{address}"));
                link.tls(ClientTls::from_pem(certificate).unwrap())
                    .build()
                    .unwrap()
            }
        };
        self.make(|| Coordinator::new(addresses.map(link)))
    }

    /// A server in a process of its own.
    pub fn start(self) -> ServerProcess {
        ServerProcess::run(&[SERVE.as_ref(), self.name().as_ref()])
    }
}

/// Makes this process a server, if it was started as one. To be called first, and
/// after [`make_certificate`].
pub fn serve_if_told() {
    let arguments: Vec<String> = env::args().collect();
    if let [_, serve, way] = &arguments[..]
        && serve == SERVE
    {
        let (server, service) = Way::named(way).server();
        take_in_regularly();
        serve_until_told(server, async move { service });
    }
}

/// Makes the certificate that all servers show, and its key.
pub fn make_certificate() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let [certificate, key] = pem_files();
    fs::write(certificate, made.cert.pem()).unwrap();
    fs::write(key, made.signing_key.serialize_pem()).unwrap();
}

fn pem_files() -> [PathBuf; 2] {
    let directory = env::temp_dir();
    ["certificate", "key"].map(|name| directory.join(format!("kvquorum-benches-{name}.pem")))
}
