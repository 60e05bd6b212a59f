//! Memory and file descriptors of processes, as the system tells of them.

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Between samples.
const EVERY: Duration = Duration::from_millis(500);

/// The processes of the nodes, where 0 stands for none, and that of the clients.
pub type Processes = Arc<[AtomicU32; 4]>;

/// One process, from its start to its end.
pub struct Life {
    /// The place among [`Processes`].
    pub place: usize,
    process: u32,
    began: Instant,
    samples: Vec<Sample>,
}

#[derive(Clone, Copy)]
struct Sample {
    /// Since the process began.
    at: Duration,
    /// Resident, in KiB.
    memory: u64,
    files: u64,
}

/// What a process used when it was warm, and at its end.
pub struct Growth {
    /// In KiB: the medians of the first third and of the last.
    pub memory: [u64; 2],
    /// In KiB a minute: the slope of the line of least squares.
    pub slope: f64,
    /// The least of the first third and of the last: what comes and goes with a pause is
    /// in neither.
    pub files: [u64; 2],
}

/// All lives, in the order of their beginnings.
pub struct Usage(Arc<Mutex<Vec<Life>>>);

impl Usage {
    /// Takes samples for as long as the task is not aborted.
    pub async fn watch(self, processes: Processes) -> Infallible {
        let mut due = tokio::time::interval(EVERY);
        loop {
            due.tick().await;
            for (place, process) in processes.iter().enumerate() {
                let process = process.load(Ordering::SeqCst);
                if let Some((memory, files)) = measured(process) {
                    self.take(place, process, memory, files);
                }
            }
        }
    }

    pub fn new() -> Self {
        Self(Arc::default())
    }

    pub fn lives(&self) -> MutexGuard<'_, Vec<Life>> {
        self.0.lock().unwrap()
    }

    fn take(&self, place: usize, process: u32, memory: u64, files: u64) {
        let mut lives = self.lives();
        let last = lives.iter_mut().rfind(|life| life.place == place);
        let sample = |began: Instant| Sample {
            at: began.elapsed(),
            memory,
            files,
        };
        match last {
            Some(life) if life.process == process => life.samples.push(sample(life.began)),
            _ => {
                let began = Instant::now();
                lives.push(Life {
                    place,
                    process,
                    began,
                    samples: vec![sample(began)],
                });
            }
        }
    }
}

impl Clone for Usage {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// How much memory a process has resident, in KiB, and how many files open.
pub fn measured(process: u32) -> Option<(u64, u64)> {
    if process == 0 {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let memory = memory.trim().strip_suffix(" kB")?.parse().ok()?;
    let files = fs::read_dir(format!("/proc/{process}/fd")).ok()?.count();
    Some((memory, files as u64))
}

impl Life {
    pub fn lasted(&self) -> Duration {
        self.samples.last().map_or(Duration::ZERO, |last| last.at)
    }

    /// Of all samples.
    pub fn most_files(&self) -> u64 {
        self.samples.iter().map(|it| it.files).max().unwrap_or(0)
    }

    /// Of all samples, in KiB.
    pub fn most_memory(&self) -> u64 {
        self.samples.iter().map(|it| it.memory).max().unwrap_or(0)
    }

    /// Resident at this age, in KiB.
    pub fn memory_at(&self, age: Duration) -> Option<u64> {
        let sample = self.samples.iter().find(|sample| sample.at >= age);
        sample.map(|sample| sample.memory)
    }

    /// What it came to after a warm-up, which is a quarter of its life.
    pub fn growth(&self) -> Growth {
        let warm = &self.samples[self.samples.len() / 4..];
        let third = warm.len().div_ceil(3);
        let (first, last) = (&warm[..third], &warm[warm.len() - third..]);
        let median = |samples: &[Sample]| median(samples.iter().map(|it| it.memory).collect());
        let least = |samples: &[Sample]| samples.iter().map(|it| it.files).min().unwrap();
        Growth {
            memory: [median(first), median(last)],
            slope: slope(warm),
            files: [least(first), least(last)],
        }
    }
}

pub fn median(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers[numbers.len() / 2]
}

fn slope(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let minutes = |sample: &Sample| sample.at.as_secs_f64() / 60.0;
    let mean_minutes = samples.iter().map(minutes).sum::<f64>() / count;
    let mean_memory = samples.iter().map(|it| it.memory as f64).sum::<f64>() / count;
    let (mut both, mut square) = (0.0, 0.0);
    for sample in samples {
        let apart = minutes(sample) - mean_minutes;
        both += apart * (sample.memory as f64 - mean_memory);
        square += apart * apart;
    }
    both / square
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [memory, memory_at_last] = self.memory;
        let [files, files_at_last] = self.files;
        write!(
            f,
            "{memory} and then {memory_at_last} KiB resident ({:+.0} KiB a minute), \
             {files} and then {files_at_last} files at least",
            self.slope
        )
    }
}
