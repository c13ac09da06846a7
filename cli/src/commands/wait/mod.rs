//! `sbxctl wait`, and the waiting of `apply --wait` and `delete --wait`: by events, and no longer than it
//! makes sense.

mod goal;

pub use goal::{Goal, Progress, parse_phase};

use super::target::Target;
use crate::args::{self, WaitArgs};
use crate::client::{Change, Client};
use crate::failure::Failure;
use crate::invocation::Invocation;
use proto::wire;
use std::time::Duration;

/// # Errors
/// [`Failure`]
pub async fn run(args: &WaitArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("wait")?;
    let targets = args::targets(&args.targets)?;
    for target in &targets {
        args.goal.fits(target.kind).map_err(Failure::Usage)?;
    }
    let client = invocation.client()?;
    until(&client, &targets, args.goal, args.timeout, invocation).await
}

/// Waits for all targets together.
///
/// # Errors
/// [`Failure::NeverComes`], [`Failure::TimedOut`], or the client's.
pub async fn until(
    client: &Client,
    targets: &[Target],
    goal: Goal,
    timeout: Duration,
    invocation: &mut Invocation,
) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + timeout;
    // In turn, but all watched from the start on: a state that passes while another is waited for is seen.
    let mut waits: Vec<Wait<'_>> = Vec::new();
    for target in targets {
        waits.push(Wait::new(client, target));
    }
    let ended = futures::future::join_all(waits.iter_mut().map(|wait| {
        let limit = tokio::time::timeout_at(deadline, wait.reach(goal));
        async move { limit.await.ok() }
    }))
    .await;
    let mut failures = Vec::new();
    for (wait, ended) in waits.iter().zip(ended) {
        match ended {
            Some(Ok(())) => invocation.say(format_args!("{} {goal}", wait.target))?,
            Some(Err(failure)) => failures.push(failure),
            None => failures.push(Failure::TimedOut {
                what: format!("{} {goal}", wait.target),
                waited: timeout,
                last: wait.last.clone(),
            }),
        }
    }
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        failed => {
            for failure in &failures {
                invocation.note(format_args!("sbxctl: {failure}"));
            }
            Err(Failure::Several {
                failed,
                total: targets.len(),
                code: failures[0].exit_code(),
            })
        }
    }
}

struct Wait<'a> {
    target: &'a Target,
    changes: crate::client::Watch<'a>,
    /// What was seen last, for a person.
    last: String,
}

impl<'a> Wait<'a> {
    fn new(client: &'a Client, target: &'a Target) -> Self {
        let changes = client.watch(wire::WatchRequest {
            kind: wire::Kind::from(target.kind).into(),
            id: target.id.clone(),
            ..Default::default()
        });
        Self {
            target,
            changes,
            last: "nothing".to_owned(),
        }
    }

    async fn reach(&mut self, goal: Goal) -> Result<(), Failure> {
        let mut seen = false;
        loop {
            let progress = match self.changes.next().await? {
                Change::Changed(object) => {
                    seen = true;
                    self.last = goal::describe(&object);
                    goal.judge(&object)
                }
                Change::Deleted(_) => goal.judge_gone(),
                Change::Synced if seen => Progress::Waiting,
                Change::Synced => match goal.judge_gone() {
                    Progress::Reached => Progress::Reached,
                    Progress::Waiting | Progress::Never(_) => Progress::Never("it is not there".to_owned()),
                },
            };
            match progress {
                Progress::Reached => return Ok(()),
                Progress::Waiting => {}
                Progress::Never(why) => {
                    return Err(Failure::NeverComes(format!("{} {goal}: {why}", self.target)));
                }
            }
        }
    }
}
