//! The loop over attempts: how long one may take, what its answer means, when to give up. `round` says who is asked next.
//! A user sees a pause while a leader is replaced, never an error.

use super::endpoint::{Service, control};
use super::fault::{Verdict, judge, text};
use super::round::{LONGEST_PAUSE, Next, Round};
use super::{Client, ClientError, Endpoint};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::wire::control_client::ControlClient;
use std::future::Future;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Response, Status};

/// How long one replica may take for its answer. Long above a healthy commit or pull of a large list; others are asked
/// meanwhile.
const ATTEMPT: Duration = Duration::from_secs(10);
/// A stream that is silent for so long is asked about: its replica may be cut off from the others, and know nothing of
/// it.
pub(super) const SILENCE: Duration = Duration::from_secs(5);
/// From then on a user wants to know what the pause is about.
const NOTICE_AFTER: Duration = Duration::from_secs(2);

/// Who can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// Writes: any replica is asked, the leader answers. Asked of two at once, they take effect once.
    Leader,
    /// Writes that would be done again by the next leader: nobody is asked before the last one has answered.
    LeaderAlone,
    /// What hangs on an agent's session, which the leader has. Changes nothing.
    Agent,
    /// Reads.
    Any,
}

impl Route {
    fn is_write(self) -> bool {
        match self {
            Self::Leader | Self::LeaderAlone => true,
            Self::Agent | Self::Any => false,
        }
    }
}

impl Client {
    /// Asks replicas until one has decided, or the request's time is over.
    pub(super) async fn call<T, F, Fut>(&self, act: &str, route: Route, op: F) -> Result<T, ClientError>
    where
        F: Fn(ControlClient<Service>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask(act, route, |service| op(control(service))).await
    }

    /// The same for any service of a replica. Where one is silent, others are asked beside it, and the first to decide
    /// is heard.
    pub(super) async fn ask<T, F, Fut>(&self, act: &str, route: Route, op: F) -> Result<T, ClientError>
    where
        F: Fn(Service) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let begun = Instant::now();
        let deadline = begun + self.request_timeout;
        let patience = self
            .pace
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .patience();
        let mut round = Round::new(patience);
        let mut said = Said::default();
        let mut under_way = FuturesUnordered::new();
        let mut next = Next::Ask(self.first(route));
        loop {
            let pause = match next {
                Next::Ask(target) => {
                    let service = self.channels.service(&target)?;
                    round.asked(&target);
                    said.not_yet(&target);
                    under_way.push(attempt(target, op(service)));
                    patience
                }
                Next::Wait(pause) => rand::random_range(pause / 2..=pause),
            };
            let wake = match route {
                Route::LeaderAlone if !under_way.is_empty() => deadline,
                Route::Leader | Route::LeaderAlone | Route::Agent | Route::Any => Instant::now() + pause,
            };
            let answered = tokio::select! {
                biased;
                Some(answered) = under_way.next() => Some(answered),
                () = tokio::time::sleep_until(wake.min(deadline)) => None,
            };
            next = match answered {
                Some((target, took, Ok(response))) => {
                    let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
                    pace.answered(took);
                    self.remember(route, &target);
                    return Ok(response.into_inner());
                }
                Some((target, _, Err(status))) => {
                    let why = text(&status);
                    tracing::debug!(%target, act, why, "attempt failed");
                    said.put(&target, why);
                    match judge(&status) {
                        Verdict::Final => return Err(ClientError::refused(act, &status)),
                        Verdict::Untrusted(why) => {
                            let endpoint = target;
                            return Err(ClientError::Untrusted { endpoint, why });
                        }
                        Verdict::Later(after) => {
                            // Who was asked beside it knows no better.
                            under_way.clear();
                            round.forget();
                            // Those who were refused together don't come back together.
                            let pause = rand::random_range(after..=after + after / 2);
                            tokio::time::sleep_until((Instant::now() + pause).min(deadline)).await;
                            Next::Ask(target)
                        }
                        Verdict::Redirect(named) => {
                            self.forget_leader(&target);
                            round.undecided(&target, named, &self.servers)
                        }
                        Verdict::Retry => {
                            self.forget_leader(&target);
                            round.undecided(&target, None, &self.servers)
                        }
                    }
                }
                None => round.silent(self.first(route), &self.servers),
            };
            if Instant::now() >= deadline {
                return Err(ClientError::NoAnswer {
                    act: act.to_owned(),
                    waited: rounded(begun.elapsed()),
                    attempts: said.all,
                    write: route.is_write(),
                });
            }
            if begun.elapsed() >= NOTICE_AFTER
                && let Some(waits) = said.notice(act)
                && let Some(notice) = &self.notice
            {
                notice(&waits);
            }
        }
    }

    /// The replica that answered the last read, as a number.
    pub(super) fn reader(&self) -> usize {
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn first(&self, route: Route) -> Endpoint {
        let reader = self.reader();
        let leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (route, leader) {
            (Route::Leader | Route::LeaderAlone | Route::Agent, Some(leader)) => leader,
            (Route::Leader | Route::LeaderAlone | Route::Agent, None) | (Route::Any, _) => {
                self.servers[reader % self.servers.len()].clone()
            }
        }
    }

    fn remember(&self, route: Route, target: &Endpoint) {
        match route {
            Route::Leader | Route::LeaderAlone | Route::Agent => {
                *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = Some(target.clone());
            }
            Route::Any => {
                if let Some(i) = self.servers.iter().position(|s| s == target) {
                    *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = i;
                }
            }
        }
    }

    /// What was remembered of `target` did not hold.
    fn forget_leader(&self, target: &Endpoint) {
        let mut leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        leader.take_if(|leader| leader == target);
    }
}

/// One replica's answer, in bounded time, and how long it took.
async fn attempt<T>(
    target: Endpoint,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> (Endpoint, Duration, Result<Response<T>, Status>) {
    let begun = Instant::now();
    let answer = tokio::time::timeout(ATTEMPT, answer).await;
    let answer =
        answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {ATTEMPT:?}"))));
    (target, begun.elapsed(), answer)
}

/// What each replica said last, for whoever waits.
#[derive(Default)]
struct Said {
    all: Vec<(Endpoint, String)>,
    noticed: bool,
}

impl Said {
    /// It is asked; what it said before is better than nothing.
    fn not_yet(&mut self, target: &Endpoint) {
        if !self.all.iter().any(|(endpoint, _)| endpoint == target) {
            self.all.push((target.clone(), "no answer yet".to_owned()));
        }
    }

    fn put(&mut self, target: &Endpoint, why: String) {
        self.all.retain(|(endpoint, _)| endpoint != target);
        self.all.push((target.clone(), why));
    }

    /// What is waited for, the first time.
    fn notice(&mut self, act: &str) -> Option<String> {
        let (target, why) = self.all.last().filter(|_| !self.noticed)?;
        self.noticed = true;
        Some(format!(
            "{act}: waiting for a replica that can answer ({target}: {why})"
        ))
    }
}

/// Bounds how long a stream may break again and again without bringing anything.
pub(super) struct Patience {
    limit: Duration,
    broken_since: Option<Instant>,
}

impl Patience {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            limit: client.request_timeout,
            broken_since: None,
        }
    }

    /// The stream has brought something.
    pub(super) fn progress(&mut self) {
        self.broken_since = None;
    }

    /// The stream has broken: a pause before the next one is opened. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::NoAnswer`] where it has brought nothing for as long as a request may take.
    pub(super) async fn broken(&mut self, act: &str, why: &str) -> Result<(), ClientError> {
        let since = *self.broken_since.get_or_insert_with(Instant::now);
        if since.elapsed() > self.limit {
            return Err(ClientError::NoAnswer {
                act: format!("{act} ({why})"),
                waited: rounded(since.elapsed()),
                attempts: Vec::new(),
                write: false,
            });
        }
        tokio::time::sleep(LONGEST_PAUSE / 2).await;
        Ok(())
    }
}

/// To the tenth of a second, for people.
fn rounded(duration: Duration) -> Duration {
    let tenths = (duration.as_millis() + 50) / 100;
    Duration::from_millis(u64::try_from(tenths * 100).unwrap_or(u64::MAX))
}
