//! The lines of several containers as one stream, in the order of their times: the past exactly so, and what
//! comes while it is followed as it arrives.
//!
//! Called by who relays logs to users. Dropping the stream ends all that works for it.

use super::line::Line;
use super::reader::Reader;
use super::watch::Watch;
use super::{LogsError, Query, Source};
use futures::Stream;
use std::collections::VecDeque;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Bytes of text in one batch: well below the 4 MiB of a message.
const BATCH: usize = 256 << 10;
/// Lines in one batch, since also empty ones take room.
const BATCH_LINES: usize = 4_096;
/// Batches that a slow receiver may be behind, before reading waits for it.
const AHEAD: usize = 2;

type Batch = Result<Vec<Line>, LogsError>;

/// Reads the logs of `sources`. With [`Query::follow`] it goes on until `ended` is cancelled, which says that
/// nothing will be written any more, and all that was written has been read. After an error nothing comes.
pub fn read(
    sources: Vec<Source>,
    query: Query,
    ended: CancellationToken,
) -> impl Stream<Item = Batch> + Send + Unpin + use<> {
    let (out, batches) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        if let Err(fault) = run(sources, query, ended, &out).await {
            // Nobody listens any more: nobody wants to know.
            let _ = out.send(Err(fault)).await;
        }
    });
    ReceiverStream::new(batches)
}

async fn run(
    sources: Vec<Source>,
    query: Query,
    ended: CancellationToken,
    out: &mpsc::Sender<Batch>,
) -> Result<(), LogsError> {
    // Before anything is read, so that nothing is missed.
    let watch = if query.follow {
        Some(Watch::begin(sources.iter().map(|source| source.dir.as_path()))?)
    } else {
        None
    };
    let (mut lanes, _) = blocking(Lanes(Vec::new()), move |lanes| lanes.open(sources, &query)).await?;
    loop {
        let was_ended = watch.is_none() || ended.is_cancelled();
        loop {
            let (back, batch) = blocking(lanes, move |lanes| lanes.next_batch(was_ended)).await?;
            lanes = back;
            if batch.is_empty() {
                break;
            }
            if out.send(Ok(batch)).await.is_err() {
                return Ok(());
            }
        }
        let Some(watch) = watch.as_ref().filter(|_| !was_ended) else {
            return Ok(());
        };
        tokio::select! {
            changed = watch.changed() => changed?,
            () = ended.cancelled() => {}
            () = out.closed() => return Ok(()),
        }
    }
}

/// Does `work` where blocking on the disk holds up nobody.
async fn blocking<T: Send + 'static>(
    mut lanes: Lanes,
    work: impl FnOnce(&mut Lanes) -> Result<T, LogsError> + Send + 'static,
) -> Result<(Lanes, T), LogsError> {
    let done = tokio::task::spawn_blocking(move || work(&mut lanes).map(|done| (lanes, done)));
    done.await
        .unwrap_or_else(|fault| Err(LogsError::Interrupted(fault.to_string())))
}

/// All containers, with what was read of each and not given out yet.
struct Lanes(Vec<Lane>);

struct Lane {
    reader: Reader,
    lines: VecDeque<Line>,
    at_end: bool,
}

impl Lanes {
    fn open(&mut self, sources: Vec<Source>, query: &Query) -> Result<(), LogsError> {
        for Source { container, dir } in sources {
            self.0.push(Lane {
                reader: Reader::open(container, dir, query)?,
                lines: VecDeque::new(),
                at_end: false,
            });
        }
        Ok(())
    }

    /// The next lines; none: there are no more at present. `is_final`: and nothing more will be written.
    fn next_batch(&mut self, is_final: bool) -> Result<Vec<Line>, LogsError> {
        for lane in &mut self.0 {
            lane.at_end = false;
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH && batch.len() < BATCH_LINES {
            for lane in &mut self.0 {
                lane.fill(is_final)?;
            }
            let filled = self.0.iter_mut().filter(|lane| !lane.lines.is_empty());
            let earliest = filled.min_by_key(|lane| lane.lines.front().map(|line| line.time));
            let Some(line) = earliest.and_then(|lane| lane.lines.pop_front()) else {
                break;
            };
            bytes += line.text.len();
            batch.push(line);
        }
        Ok(batch)
    }
}

impl Lane {
    fn fill(&mut self, is_final: bool) -> Result<(), LogsError> {
        while self.lines.is_empty() && !self.at_end {
            self.at_end = !self.reader.read(&mut self.lines)?;
            if self.at_end && is_final {
                self.reader.finish(&mut self.lines);
            }
        }
        Ok(())
    }
}
