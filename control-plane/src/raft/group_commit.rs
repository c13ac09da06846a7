//! Group commit: one thread syncs, once for all who wait, and tells them.
//!
//! Whoever wants something durable writes it first and waits here second: a sync that begins afterwards covers
//! it. A failed sync is final. What the kernel could not write it may have dropped, so a second sync that
//! succeeds proves nothing: from then on everything is refused and the replica stops.

use super::instruments;
use super::types::TypeConfig;
use crate::clock;
use openraft::storage::IOFlushed;
use prometheus_client::metrics::histogram::Histogram;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::Notify;

/// Told once what was written before is durable, or that it never will be.
pub(super) type Callback = IOFlushed<TypeConfig>;

/// The disk failed earlier; nothing is written any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the disk of this replica failed, nothing is written until it is repaired and restarted: {cause}")]
pub struct DiskFailed {
    cause: String,
}

impl From<DiskFailed> for io::Error {
    fn from(error: DiskFailed) -> Self {
        io::Error::other(error)
    }
}

/// How many appends were written to the log, and how many of those are durable. Clones share it.
///
/// openraft applies what a quorum holds, which may be before this replica's own disk does. The state's database
/// waits for this, so that after a crash the log never ends before the state does.
#[derive(Debug, Clone, Default)]
pub struct SyncProgress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    synced: AtomicU64,
    /// `synced` has grown.
    grown: Notify,
}

impl SyncProgress {
    /// An append was written, and a sync will be asked for.
    pub(super) fn count_written(&self) {
        self.0.written.fetch_add(1, Ordering::AcqRel);
    }

    /// Appends written so far.
    pub(super) fn written(&self) -> u64 {
        self.0.written.load(Ordering::Acquire)
    }

    /// Appends durable so far.
    pub(super) fn synced(&self) -> u64 {
        self.0.synced.load(Ordering::Acquire)
    }

    /// The first `count` appends are durable.
    pub(super) fn set_synced(&self, count: u64) {
        self.0.synced.store(count, Ordering::Release);
        self.0.grown.notify_waiters();
    }

    /// Returns once the first `count` appends are durable; never where the disk has failed.
    pub(super) async fn until_synced(&self, count: u64) {
        loop {
            let grown = self.0.grown.notified();
            if self.synced() >= count {
                return;
            }
            grown.await;
        }
    }
}

#[derive(Debug)]
pub(super) struct GroupCommit {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    failed: OnceLock<DiskFailed>,
    progress: SyncProgress,
    syncs: AtomicU64,
    times: Histogram,
}

#[derive(Default)]
struct Waiting {
    callbacks: Vec<Callback>,
    stopped: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("failed", &self.failed)
            .field("syncs", &self.syncs)
            .finish_non_exhaustive()
    }
}

impl GroupCommit {
    /// Starts the thread that calls `sync`.
    pub(super) fn start(sync: impl FnMut() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            failed: OnceLock::new(),
            progress: SyncProgress::default(),
            syncs: AtomicU64::new(0),
            times: instruments::fsync_times(),
        });
        let thread = std::thread::Builder::new().name("log-sync".to_owned()).spawn({
            let queue = queue.clone();
            move || queue.run(sync)
        })?;
        Ok(Self {
            queue,
            thread: Some(thread),
        })
    }

    /// Calls `callback` after the next sync.
    pub(super) fn push(&self, callback: Callback) {
        let mut waiting = self.queue.lock();
        waiting.callbacks.push(callback);
        drop(waiting);
        self.queue.arrived.notify_one();
    }

    pub(super) fn progress(&self) -> &SyncProgress {
        &self.queue.progress
    }

    /// Whether writing still makes sense: to be asked before each write.
    pub(super) fn check(&self) -> Result<(), DiskFailed> {
        self.queue.failed.get().map_or(Ok(()), |e| Err(e.clone()))
    }

    /// A write failed other than by a sync: as final as that.
    pub(super) fn fail(&self, cause: &dyn std::error::Error) -> DiskFailed {
        self.queue.fail(cause)
    }

    /// How often the disk was synced.
    #[cfg(test)]
    pub(super) fn syncs(&self) -> u64 {
        self.queue.syncs.load(Ordering::Relaxed)
    }

    /// How long each sync took.
    pub(super) fn times(&self) -> Histogram {
        self.queue.times.clone()
    }
}

impl Drop for GroupCommit {
    /// Syncs for those who still wait, and ends the thread.
    fn drop(&mut self) {
        self.queue.lock().stopped = true;
        self.queue.arrived.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log's sync thread panicked");
        }
    }
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut sync: impl FnMut() -> io::Result<()>) {
        let mut batch = Vec::new();
        while self.next(&mut batch) {
            let written = self.progress.written();
            let result = match self.failed.get() {
                Some(failed) => Err(failed.clone()),
                None => {
                    let begun = clock::instant();
                    let synced = sync().map_err(|e| self.fail(&e));
                    self.times.observe(begun.elapsed().as_secs_f64());
                    synced
                }
            };
            if result.is_ok() {
                self.progress.set_synced(written);
            }
            self.syncs.fetch_add(1, Ordering::Relaxed);
            for callback in batch.drain(..) {
                callback.io_completed(result.clone().map_err(Into::into));
            }
        }
    }

    /// Waits for callbacks and takes all. False once stopped and none is left.
    fn next(&self, batch: &mut Vec<Callback>) -> bool {
        let mut waiting = self
            .arrived
            .wait_while(self.lock(), |w| w.callbacks.is_empty() && !w.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.callbacks, batch);
        !batch.is_empty()
    }

    fn fail(&self, cause: &dyn std::error::Error) -> DiskFailed {
        let failed = self.failed.get_or_init(|| {
            tracing::error!("the log can't be written, this replica stops: {cause}");
            DiskFailed {
                cause: cause.to_string(),
            }
        });
        failed.clone()
    }
}
