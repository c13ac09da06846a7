//! Log lines, resumed after a break without one lost or shown twice.
//!
//! A replica can't be asked for "what comes after this line", only for lines since a time. So the next stream
//! is asked for a little more than is missing, and what was shown already is dropped: per container, lines
//! before the last one shown, and as many of the same time as were shown.

use super::fault::{Verdict, judge, text};
use super::retry::{Patience, Route, SILENCE};
use super::{Client, ClientError};
use proto::object::Kind;
use proto::status::Phase;
use proto::wire;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tonic::Streaming;

/// Lines of one container may arrive after younger ones of another: a resumed stream begins this much before
/// the youngest line shown.
const OVERLAP: Duration = Duration::from_secs(10);

pub struct LogLines<'a> {
    client: &'a Client,
    request: wire::LogsRequest,
    stream: Option<Streaming<wire::LogsChunk>>,
    /// The term of the leader that the stream comes from; `None`: not known.
    term: Option<u64>,
    shown: BTreeMap<String, Shown>,
    pending: VecDeque<wire::LogLine>,
    finished: bool,
    patience: Patience,
}

/// How far one container has been shown.
#[derive(Debug, Default)]
struct Shown {
    time_unix_ns: u64,
    /// How many lines of exactly that time.
    at_that_time: u64,
    /// Of those, how many the present stream has repeated; `None` once it has passed them.
    repeated: Option<u64>,
}

impl<'a> LogLines<'a> {
    pub(super) fn new(client: &'a Client, request: wire::LogsRequest) -> Self {
        Self {
            client,
            request,
            stream: None,
            term: None,
            shown: BTreeMap::new(),
            pending: VecDeque::new(),
            finished: false,
            patience: Patience::new(client),
        }
    }

    /// The next line; `None` where there is no more, with `follow` once the sandbox has ended.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn next(&mut self) -> Result<Option<wire::LogLine>, ClientError> {
        loop {
            if let Some(line) = self.pending.pop_front() {
                return Ok(Some(line));
            }
            if self.finished {
                return Ok(None);
            }
            let Some(stream) = &mut self.stream else {
                self.open().await?;
                continue;
            };
            let act = format!("logs of sandbox/{}", self.request.sandbox_id);
            let Ok(message) = tokio::time::timeout(SILENCE, stream.message()).await else {
                // A leader that was replaced without noticing has no lines to relay any more.
                if self.request.follow && self.term().await != self.term {
                    self.stream = None;
                }
                continue;
            };
            let why = match message {
                Ok(Some(chunk)) => {
                    self.patience.progress();
                    let lines = chunk
                        .lines
                        .into_iter()
                        .filter(|line| is_new(&mut self.shown, line));
                    self.pending.extend(lines);
                    continue;
                }
                Ok(None) => {
                    self.stream = None;
                    self.finished = !self.request.follow || self.has_ended().await?;
                    if self.finished {
                        continue;
                    }
                    "the replica ended the stream".to_owned()
                }
                Err(status) if matches!(judge(&status), Verdict::Final | Verdict::Untrusted(_)) => {
                    return Err(ClientError::refused(&act, &status));
                }
                Err(status) => text(&status),
            };
            tracing::debug!(why, "log stream broken, opening it again");
            self.stream = None;
            self.patience.broken(&act, &why).await?;
        }
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        let request = resumed(&self.request, &mut self.shown);
        let act = format!("logs of sandbox/{}", request.sandbox_id);
        let stream = self
            .client
            .call(&act, Route::Agent, |mut c| {
                let request = request.clone();
                async move { c.logs(request).await }
            })
            .await?;
        self.stream = Some(stream);
        if self.request.follow {
            self.term = self.term().await;
        }
        Ok(())
    }

    async fn term(&self) -> Option<u64> {
        self.client.cluster(false).await.ok().map(|cluster| cluster.term)
    }

    /// A stream that ends may mean that the sandbox has ended, or that the replica stops.
    async fn has_ended(&self) -> Result<bool, ClientError> {
        let object = match self
            .client
            .get(Kind::Sandbox, &self.request.sandbox_id, false)
            .await
        {
            Ok(object) => object,
            Err(error) if error.is_not_found() => return Ok(true),
            Err(error) => return Err(error),
        };
        let Some(wire::object::Object::Sandbox(sandbox)) = object.object else {
            return Ok(true);
        };
        let phase = sandbox.status.and_then(|s| Phase::try_from(s.phase()).ok());
        Ok(phase.is_none_or(|phase| phase.has_ended() || phase == Phase::Deleting))
    }
}

/// The request that goes on behind what was shown.
fn resumed(first: &wire::LogsRequest, shown: &mut BTreeMap<String, Shown>) -> wire::LogsRequest {
    let mut request = first.clone();
    let Some(youngest) = shown.values().map(|s| s.time_unix_ns).max() else {
        return request; // nothing shown: the first request still says what is wanted
    };
    for container in shown.values_mut() {
        container.repeated = Some(0);
    }
    let oldest = shown.values().map(|s| s.time_unix_ns).min().unwrap_or(youngest);
    let overlap = u64::try_from(OVERLAP.as_nanos()).unwrap_or(u64::MAX);
    let since_ns = youngest.saturating_sub(overlap).min(oldest);
    request.since_ms = (since_ns / 1_000_000).max(first.since_ms);
    request.tail = None;
    request
}

/// Notes a line, and says whether it has not been shown yet.
fn is_new(shown: &mut BTreeMap<String, Shown>, line: &wire::LogLine) -> bool {
    let Some(container) = shown.get_mut(&line.container) else {
        let first = Shown {
            time_unix_ns: line.time_unix_ns,
            at_that_time: 1,
            repeated: None,
        };
        shown.insert(line.container.clone(), first);
        return true;
    };
    if let Some(repeated) = container.repeated {
        if line.time_unix_ns < container.time_unix_ns {
            return false;
        }
        if line.time_unix_ns == container.time_unix_ns && repeated < container.at_that_time {
            container.repeated = Some(repeated + 1);
            return false;
        }
        container.repeated = None;
    }
    if line.time_unix_ns == container.time_unix_ns {
        container.at_that_time += 1;
    } else {
        container.time_unix_ns = line.time_unix_ns;
        container.at_that_time = 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(container: &str, ns: u64, text: &str) -> wire::LogLine {
        wire::LogLine {
            container: container.to_owned(),
            stderr: false,
            time_unix_ns: ns,
            line: text.as_bytes().to_vec(),
        }
    }

    /// `first` arrives, the stream breaks, `second` arrives: what is shown.
    #[track_caller]
    fn check(first: &[(&str, u64, &str)], second: &[(&str, u64, &str)], expected: &[&str]) {
        let mut shown = BTreeMap::new();
        let mut seen = Vec::new();
        let mut feed = |lines: &[(&str, u64, &str)], shown: &mut BTreeMap<String, Shown>| {
            for (container, ns, text) in lines {
                if is_new(shown, &line(container, *ns, text)) {
                    seen.push((*text).to_owned());
                }
            }
        };
        feed(first, &mut shown);
        resumed(&wire::LogsRequest::default(), &mut shown);
        feed(second, &mut shown);
        assert_eq!(seen, expected);
    }

    #[test]
    fn resumed_stream_repeats_lines_shows_each_once() {
        check(
            &[("a", 1, "one"), ("a", 2, "two")],
            &[("a", 1, "one"), ("a", 2, "two"), ("a", 3, "three")],
            &["one", "two", "three"],
        );
    }

    #[test]
    fn lines_of_one_instant_broken_in_between_are_counted() {
        check(
            &[("a", 5, "x"), ("a", 5, "y")],
            &[("a", 5, "x"), ("a", 5, "y"), ("a", 5, "z"), ("a", 5, "z2")],
            &["x", "y", "z", "z2"],
        );
    }

    #[test]
    fn container_first_seen_after_the_break_shows_all_its_lines() {
        check(
            &[("a", 9, "a9")],
            &[("a", 9, "a9"), ("b", 4, "b4"), ("b", 5, "b5")],
            &["a9", "b4", "b5"],
        );
    }

    #[test]
    fn clock_set_back_without_a_break_loses_nothing() {
        check(
            &[("a", 9, "late"), ("a", 3, "early")],
            &[("a", 4, "next")],
            &["late", "early", "next"],
        );
    }

    #[test]
    fn resumed_request_begins_before_the_oldest_end_and_drops_the_tail() {
        let mut shown = BTreeMap::new();
        is_new(&mut shown, &line("a", 100_000_000_000, "a"));
        is_new(&mut shown, &line("b", 50_000_000_000, "b"));
        let first = wire::LogsRequest {
            tail: Some(3),
            since_ms: 7,
            follow: true,
            ..Default::default()
        };
        let request = resumed(&first, &mut shown);
        assert_eq!(
            (request.since_ms, request.tail, request.follow),
            (50_000, None, true)
        );
    }
}
