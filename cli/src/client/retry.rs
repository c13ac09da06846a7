//! The loop over attempts: which replica is asked next, how long one attempt may take, when to give up.
//! A user sees a pause while a leader is replaced, never an error.

use super::endpoint::{Service, control};
use super::fault::{Verdict, judge, text};
use super::{Client, ClientError, Endpoint};
use proto::wire::control_client::ControlClient;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Response, Status};

/// How long one attempt may take in the first round over all replicas. Long above a healthy commit or pull of a
/// large list, short enough that a frozen leader costs a pause and no more.
const FIRST_ATTEMPT: Duration = Duration::from_secs(2);
/// Each round doubles it up to this, for a cluster that is merely slow.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(10);
/// The pause after a round in which no replica could answer; doubles with each round. An election takes
/// some hundred milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// A stream that is silent for so long is asked about: its replica may be cut off from the others, and know nothing of
/// it.
pub(super) const SILENCE: Duration = Duration::from_secs(5);
/// From then on a user wants to know what the pause is about.
const NOTICE_AFTER: Duration = Duration::from_secs(2);

/// Who can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// Writes: any replica is asked, the leader answers.
    Leader,
    /// What hangs on an agent's session, which the leader has. Changes nothing.
    Agent,
    /// Reads.
    Any,
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

    /// The same for any service of a replica.
    pub(super) async fn ask<T, F, Fut>(&self, act: &str, route: Route, op: F) -> Result<T, ClientError>
    where
        F: Fn(Service) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let begun = Instant::now();
        let deadline = begun + self.request_timeout;
        let mut round = Round::default();
        let mut noticed = false;
        let mut attempts: Vec<(Endpoint, String)> = Vec::new();
        let mut target = self.first(route);
        loop {
            let client = self.channels.service(&target)?;
            let limit = round
                .attempt
                .min(deadline.saturating_duration_since(Instant::now()));
            let (verdict, why) = match tokio::time::timeout(limit, op(client)).await {
                Ok(Ok(response)) => {
                    self.remember(route, &target);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => match judge(&status) {
                    Verdict::Final => return Err(ClientError::refused(act, &status)),
                    Verdict::Untrusted(why) => {
                        let endpoint = target;
                        return Err(ClientError::Untrusted { endpoint, why });
                    }
                    verdict @ (Verdict::Redirect(_) | Verdict::Retry | Verdict::Later(_)) => {
                        (verdict, text(&status))
                    }
                },
                Err(_) => (
                    Verdict::Retry,
                    format!("no answer within {}", humantime::format_duration(rounded(limit))),
                ),
            };
            tracing::debug!(%target, act, why, "attempt failed");
            if !noticed && begun.elapsed() >= NOTICE_AFTER {
                noticed = true;
                if let Some(notice) = &self.notice {
                    notice(&format!(
                        "{act}: waiting for a replica that can answer ({target}: {why})"
                    ));
                }
            }
            attempts.retain(|(endpoint, _)| *endpoint != target);
            attempts.push((target.clone(), why));
            let next = match verdict {
                Verdict::Later(after) => {
                    // Those who were refused together don't come back together.
                    let pause = rand::random_range(after..=after + after / 2);
                    tokio::time::sleep_until((Instant::now() + pause).min(deadline)).await;
                    Some(target)
                }
                verdict => {
                    round.tried.insert(target);
                    self.next(&mut round, verdict)
                }
            };
            target = match next {
                Some(next) => next,
                None => {
                    let pause = rand::random_range(round.pause / 2..=round.pause);
                    tokio::time::sleep_until((Instant::now() + pause).min(deadline)).await;
                    round.again();
                    self.first(route)
                }
            };
            if Instant::now() >= deadline {
                return Err(ClientError::NoAnswer {
                    act: act.to_owned(),
                    waited: rounded(begun.elapsed()),
                    attempts,
                    write: route == Route::Leader,
                });
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
            (Route::Leader | Route::Agent, Some(leader)) => leader,
            (Route::Leader | Route::Agent, None) | (Route::Any, _) => {
                self.servers[reader % self.servers.len()].clone()
            }
        }
    }

    fn remember(&self, route: Route, target: &Endpoint) {
        match route {
            Route::Leader | Route::Agent => {
                *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = Some(target.clone());
            }
            Route::Any => {
                if let Some(i) = self.servers.iter().position(|s| s == target) {
                    *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = i;
                }
            }
        }
    }

    /// The leader that was named, else a replica not yet asked in this round; `None`: the round is over.
    fn next(&self, round: &mut Round, verdict: Verdict) -> Option<Endpoint> {
        if let Verdict::Redirect(Some(leader)) = verdict
            && !round.tried.contains(&leader)
        {
            return Some(leader);
        }
        // What was remembered did not hold.
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.servers.iter().find(|s| !round.tried.contains(s)).cloned()
    }
}

/// One pass over the replicas: each is asked at most once.
struct Round {
    tried: BTreeSet<Endpoint>,
    attempt: Duration,
    pause: Duration,
}

impl Default for Round {
    fn default() -> Self {
        Self {
            tried: BTreeSet::new(),
            attempt: FIRST_ATTEMPT,
            pause: FIRST_PAUSE,
        }
    }
}

impl Round {
    fn again(&mut self) {
        self.tried.clear();
        self.attempt = (self.attempt * 2).min(LONGEST_ATTEMPT);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
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
