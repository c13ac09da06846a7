//! Does the steps of a plan, one match, and decides nothing: what a failure means is in its type, what follows from it
//! is [`crate::plan`]'s. Called by the sandboxes' tasks.
//!
//! | file | owns |
//! |---|---|
//! | `make` | from an address to a started monitor |
//! | `pull` | the images, and how far they are |
//! | `bundle` | files, cgroup and OCI specs of one sandbox, on a thread that may block |
//! | `ready` | the probe |
//! | `end` | stopping, killing, releasing, recording, removing |
//! | `failure` | what can go wrong, and which reason a user reads |

mod bundle;
mod end;
mod failure;
mod make;
mod pull;
mod ready;

use crate::plan::{Outcome, Stage, Step};
use crate::sandbox::{Interrupt, Sandbox};
pub(crate) use failure::Failure;
use std::time::Instant;

/// Why a step has not led where it should.
#[derive(Debug)]
pub(crate) enum Halt {
    /// It is not wished any more.
    Interrupted,
    /// The sandbox has ended, or can't be made.
    Ended(Outcome),
    /// Some of it could not be taken away; worth another try.
    Leftovers(Vec<String>),
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Ended(failure.outcome())
    }
}

/// Does one step, and notes how far the sandbox is then.
pub(crate) async fn execute(
    sandbox: &mut Sandbox,
    step: Step,
    interrupt: &mut Interrupt,
) -> Result<(), Halt> {
    tracing::debug!(uid = %sandbox.uid, ?step, "step");
    sandbox.enter(&step);
    let reached = match step {
        Step::Address => make::address(sandbox).await.map(|()| Some(Stage::Addressed)),
        Step::Provide => make::provide(sandbox, interrupt)
            .await
            .map(|()| Some(Stage::Provided)),
        Step::Prepare => make::prepare(sandbox, interrupt)
            .await
            .map(|()| Some(Stage::Prepared)),
        Step::Start => make::start(sandbox, interrupt)
            .await
            .map(|()| Some(Stage::Started)),
        Step::AwaitReady => ready::await_ready(sandbox, interrupt)
            .await
            .map(|()| Some(Stage::Ready)),
        Step::Stop => end::stop(sandbox, interrupt).await.map(|()| None),
        Step::Kill => end::kill(sandbox).await.map(|()| None),
        Step::Release => end::release(sandbox).await.map(|()| Some(Stage::Absent)),
        Step::Conclude(outcome) => end::conclude(sandbox, outcome).await.map(|()| Some(Stage::Ended)),
        Step::Remove => end::remove(sandbox).await.map(|()| Some(Stage::Absent)),
    };
    sandbox.leave(reached.as_ref());
    if let Some(stage) = reached? {
        sandbox.observed.stage = stage;
    }
    Ok(())
}

/// Notes how long a stage has taken, in whole milliseconds, rounded up: none takes no time.
fn timed(sandbox: &mut Sandbox, stage: &'static str, begun: Instant, ended: Instant) {
    let micros = ended.saturating_duration_since(begun).as_micros();
    let ms = u64::try_from(micros.div_ceil(1_000)).unwrap_or(u64::MAX);
    sandbox.report.timings_ms.insert(stage.to_owned(), ms);
    if let Some(journey) = &sandbox.journey {
        journey.stage(stage, begun, ended);
    }
}
