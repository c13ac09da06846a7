//! Clients that write, each as fast as its writes are acknowledged, and how long each write took. Knows nothing of whom
//! they write to.

use crate::error::BenchError;
use crate::quantile::Summary;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// One client with a connection of its own.
pub(super) trait Writer: Send + Sync + 'static {
    /// Writes something of this number, which is unique among its own; returns when that is acknowledged.
    fn write(&self, number: u64) -> impl Future<Output = Result<(), BenchError>> + Send;
}

/// What some clients have done together.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Load {
    pub(super) clients: usize,
    pub(super) per_second: f64,
    /// From the request to its acknowledgement.
    pub(super) latency: Summary,
}

/// Lets all of them write for so long. Each has written once before it counts: connected, and known.
///
/// # Errors
/// The first error of any client.
pub(super) async fn run<W: Writer>(writers: Vec<W>, time: Duration) -> Result<Load, BenchError> {
    let clients = writers.len();
    let warm = writers
        .into_iter()
        .map(|writer| async move { writer.write(0).await.map(|()| writer) });
    let writers = futures::future::try_join_all(warm).await?;
    let begun = Instant::now();
    let tasks = writers.into_iter().map(|writer| {
        tokio::spawn(async move {
            let mut times = Vec::new();
            while begun.elapsed() < time {
                let asked = Instant::now();
                writer.write(1 + times.len() as u64).await?;
                times.push(asked.elapsed());
            }
            Ok::<_, BenchError>(times)
        })
    });
    let mut all = Vec::new();
    for task in futures::future::join_all(tasks).await {
        all.extend(task.map_err(panicked)??);
    }
    let elapsed = begun.elapsed();
    Ok(Load {
        clients,
        per_second: all.len() as f64 / elapsed.as_secs_f64(),
        latency: Summary::of(&all).ok_or(BenchError::Nothing("writes"))?,
    })
}

/// One client that writes beside whatever else goes on, until it is asked for what it has seen.
pub(super) struct Beside {
    stop: std::sync::Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<Vec<Written>, BenchError>>,
}

/// A write, with the moment at which it was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) asked: Instant,
    pub(super) took: Duration,
}

impl Beside {
    /// `first` is the number of its first write.
    pub(super) fn start<W: Writer>(writer: W, first: u64) -> Self {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut all = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                writer.write(first + all.len() as u64).await?;
                let took = asked.elapsed();
                all.push(Written { asked, took });
            }
            Ok(all)
        });
        Self { stop, task }
    }

    /// All its writes.
    ///
    /// # Errors
    /// The first one that was refused.
    pub(super) async fn end(self) -> Result<Vec<Written>, BenchError> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.map_err(panicked)?
    }
}

fn panicked(error: tokio::task::JoinError) -> BenchError {
    BenchError::System {
        act: "run a client",
        source: std::io::Error::other(error),
    }
}
