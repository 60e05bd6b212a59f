//! What was recorded through the `metrics` facade.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a panic is how a test fails"
)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use metrics_util::CompositeKey;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// What was recorded of one thing under test, whatever else goes on in the process.
pub struct Recorded {
    snapshots: Snapshotter,
    /// Each snapshot takes along what it tells of.
    so_far: Mutex<HashMap<Metric, Values>>,
}

/// A name and the labels.
type Metric = (String, Vec<(String, String)>);

/// What was added up, and each value of a histogram.
#[derive(Clone, Default)]
struct Values {
    sum: f64,
    all: Vec<f64>,
}

impl Recorded {
    /// What is recorded by what `make` makes, which registers it then.
    pub fn of<T>(make: impl FnOnce() -> T) -> (T, Self) {
        let recorder = DebuggingRecorder::new();
        let recorded = Self {
            snapshots: recorder.snapshotter(),
            so_far: Mutex::default(),
        };
        (metrics::with_local_recorder(&recorder, make), recorded)
    }

    /// A counter or a gauge with exactly these labels. Panics where nobody
    /// registered it, so that a name that was mistyped is no zero.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.values(name, labels).sum
    }

    /// As [`sum`](Self::sum), of a histogram: all values, in the order in which
    /// they were recorded.
    pub fn all(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        self.values(name, labels).all
    }

    /// The names of all that is registered, and whether each is described.
    pub fn names(&self) -> BTreeMap<String, bool> {
        let snapshot = self.snapshots.snapshot().into_vec().into_iter();
        let described = |(key, _, text, _): (CompositeKey, _, Option<_>, _)| {
            (key.key().name().to_owned(), text.is_some())
        };
        snapshot.map(described).collect()
    }

    fn values(&self, name: &str, labels: &[(&str, &str)]) -> Values {
        let mut so_far = self.so_far.lock().unwrap();
        for (key, _, _, value) in self.snapshots.snapshot().into_vec() {
            let labels = key.key().labels();
            let labels = labels.map(|label| (label.key().to_owned(), label.value().to_owned()));
            let metric = (key.key().name().to_owned(), labels.collect());
            let values: &mut Values = so_far.entry(metric).or_default();
            match value {
                #[allow(clippy::cast_precision_loss, reason = "tests count to few")]
                DebugValue::Counter(count) => values.sum += count as f64,
                DebugValue::Gauge(value) => values.sum += value.0,
                DebugValue::Histogram(more) => values.all.extend(more.iter().map(|it| it.0)),
            }
        }
        let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        let metric = (name.to_owned(), labels.iter().map(own).collect());
        let found = so_far.get(&metric).cloned();
        found.unwrap_or_else(|| panic!("{name} {labels:?} is not registered"))
    }
}
