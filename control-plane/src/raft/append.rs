//! One replication session: openraft's requests out on a stream, the answers back in their order.
//!
//! Owns splitting by bytes, how much may be under way unanswered, and when a silent peer counts as stalled.
//! A session keeps its stream open for as long as it leads. Called by [`super::network`].

use super::codec;
use super::levels::Levels;
use super::link::Peer;
use super::message;
use super::types::TypeConfig;
use crate::clock;
use futures::stream::{Stream, StreamExt};
use openraft::errors::{RPCError, Unreachable};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use prost::Message;
use proto::wire;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Entries of one message together, but for a single larger one: few enough that a follower's answers come
/// steadily, many enough that the cost per message does not matter.
pub(super) const PART_BYTES: usize = 1 << 20;
/// Messages under way unanswered. openraft's receiving side holds as many.
const MAX_UNDER_WAY: usize = 64;
/// Bytes under way unanswered: keeps a slow follower from filling this replica's memory.
const MAX_UNDER_WAY_BYTES: usize = 8 << 20;
/// From the request for a stream to its opening. A round trip, or the connection is of no use.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// Without an answer to anything under way for this long a session is given up. A follower's slow disk is no
/// reason; a dead connection is noticed before by its pings.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// Runs a session over the requests of `input` until it ends or fails.
///
/// Both directions are driven by polling the answers. Dropping those drops `input` at once, which openraft relies
/// on: it holds a lock while it waits for its next request.
///
/// # Errors
/// Where the stream can't be opened.
pub(super) async fn session<S>(
    mut peer: Peer,
    id: u64,
    levels: Levels,
    mut input: S,
) -> Result<impl Stream<Item = Answer> + Send, RPCError<TypeConfig>>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    let mut session = None;
    // The first request travels with the opening of the stream instead of after it.
    if let Some(first) = input.next().await {
        let mut window = Window::new();
        let term = first.vote.leader_id.term;
        window.split(first);
        let outgoing = window.open();
        let opening = peer.append_entries(ReceiverStream::new(outgoing));
        let opened = tokio::time::timeout(OPEN_TIMEOUT, opening).await;
        let opened = opened.map_err(|_| no_answer(OPEN_TIMEOUT))?;
        session = Some(Session {
            input: Some(input),
            window,
            answers: opened.map_err(unreachable)?.into_inner(),
            introduction: Some(Introduction { id, term, levels }),
        });
    }
    Ok(futures::stream::unfold(session, |session| async {
        let mut session = session?;
        let answer = session.next().await?;
        // A refusal ends the session: openraft begins another from where the logs agree.
        let goes_on = matches!(answer, Ok(Ok(_)));
        Some((answer, goes_on.then_some(session)))
    }))
}

struct Session<S> {
    /// `None` once it has ended.
    input: Option<S>,
    window: Window,
    answers: Streaming<wire::AppendResponse>,
    /// `None` once the peer has answered: with its first answer it says what it runs.
    introduction: Option<Introduction>,
}

/// Who is to say it, and to the leader of which term.
struct Introduction {
    id: u64,
    term: u64,
    levels: Levels,
}

impl<S> Session<S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    /// The next answer; `None` when all is answered and nothing more will be asked.
    async fn next(&mut self) -> Option<Answer> {
        loop {
            self.window.send();
            let stalls_at = self.window.stalls_at();
            let takes_more = self.window.waiting.is_empty();
            if self.input.is_none() && stalls_at.is_none() {
                return None;
            }
            let request = async {
                match &mut self.input {
                    Some(input) => input.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                response = next(&mut self.answers, stalls_at) => {
                    self.window.answered();
                    return Some(response.and_then(|response| self.heard(response)));
                }
                request = request, if takes_more => match request {
                    Some(request) => self.window.split(request),
                    None => self.input = None,
                },
            }
        }
    }

    fn heard(&mut self, response: wire::AppendResponse) -> Answer {
        if let Some(Introduction { id, term, levels }) = self.introduction.take() {
            levels.hear(id, term, response.software.clone());
        }
        message::appended_from(response).map_err(unreachable)
    }
}

/// The peer's next answer; by then, where one is due.
async fn next(
    answers: &mut Streaming<wire::AppendResponse>,
    stalls_at: Option<Instant>,
) -> Result<wire::AppendResponse, RPCError<TypeConfig>> {
    let next = match stalls_at {
        Some(at) => tokio::time::timeout_at(at.into(), answers.next())
            .await
            .map_err(|_| no_answer(STALL_TIMEOUT))?,
        None => answers.next().await,
    };
    match next {
        Some(Ok(response)) => Ok(response),
        Some(Err(status)) => Err(unreachable(status)),
        None => Err(unreachable_text("the replica ended the stream")),
    }
}

/// What is to be sent, and what is sent and not answered yet.
struct Window {
    /// Parts of the last request that have not been sent.
    waiting: VecDeque<Part>,
    requests: Option<mpsc::Sender<wire::AppendRequest>>,
    /// Sizes of what is sent and not answered.
    under_way: VecDeque<usize>,
    under_way_bytes: usize,
    /// When the peer last showed that it works, or nothing was due from it.
    moved_at: Instant,
}

/// One message, measured.
struct Part {
    message: wire::AppendRequest,
    bytes: usize,
}

impl Window {
    fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            requests: None,
            under_way: VecDeque::new(),
            under_way_bytes: 0,
            moved_at: clock::instant(),
        }
    }

    /// What goes out, from now on.
    fn open(&mut self) -> mpsc::Receiver<wire::AppendRequest> {
        let (requests, outgoing) = mpsc::channel(MAX_UNDER_WAY);
        self.requests = Some(requests);
        self.send();
        outgoing
    }

    /// Sends what there is room for. The channel has room for all that may be under way.
    fn send(&mut self) {
        while self.under_way.len() < MAX_UNDER_WAY
            && (self.under_way_bytes < MAX_UNDER_WAY_BYTES || self.under_way.is_empty())
            && let Some(requests) = &self.requests
            && let Some(part) = self.waiting.pop_front()
        {
            if self.under_way.is_empty() {
                self.moved_at = clock::instant();
            }
            self.under_way.push_back(part.bytes);
            self.under_way_bytes += part.bytes;
            if requests.try_send(part.message).is_err() {
                // The stream is over: why, is what the answers say next.
                self.requests = None;
            }
        }
    }

    fn answered(&mut self) {
        self.under_way_bytes -= self.under_way.pop_front().unwrap_or_default();
        self.moved_at = clock::instant();
    }

    /// When an answer is overdue; `None` where none is due.
    fn stalls_at(&self) -> Option<Instant> {
        let due = !self.under_way.is_empty() || !self.waiting.is_empty();
        due.then(|| self.moved_at + STALL_TIMEOUT)
    }

    /// Cuts a request into messages of at most [`PART_BYTES`], but for single entries that are larger.
    fn split(&mut self, request: AppendEntriesRequest<TypeConfig>) {
        let vote = Some(codec::vote(&request.vote));
        let leader_commit = message::log_id(request.leader_commit.as_ref());
        let begin = |prev_log_id| Part {
            message: wire::AppendRequest {
                vote,
                prev_log_id,
                entries: Vec::new(),
                leader_commit,
            },
            bytes: 0,
        };
        let mut part = begin(message::log_id(request.prev_log_id.as_ref()));
        for entry in request.entries {
            let entry = codec::entry(entry);
            let bytes = entry.encoded_len();
            if part.bytes > 0 && part.bytes + bytes > PART_BYTES {
                let next = begin(part.message.entries.last().and_then(|last| last.log_id));
                self.waiting.push_back(std::mem::replace(&mut part, next));
            }
            part.bytes += bytes;
            part.message.entries.push(entry);
        }
        self.waiting.push_back(part);
    }
}

/// Every failure is one that openraft waits after before it tries again: an immediate retry meets the same fate.
pub(super) fn unreachable(error: impl std::error::Error + 'static) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&error))
}

fn no_answer(within: Duration) -> RPCError<TypeConfig> {
    unreachable_text(format!("no answer within {within:?}"))
}

fn unreachable_text(text: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(text))
}

#[cfg(test)]
mod tests;
