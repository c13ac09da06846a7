//! What is to be done next for one sandbox. Pure: what is wished and what is there come in, a list of steps goes
//! out, and nothing else is looked at. [`crate::execute`] does the steps and decides nothing.
//!
//! The list leads all the way to what is wished. Whoever works it off asks for a new one when a step fails, when
//! the wish changes, and when something happens by itself, such as the end of a container.

use proto::status::{Phase, Reason};

/// What shall become of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Run,
    /// Nobody has said yet what shall become of it: it goes on as it is.
    Keep,
    /// It shall run no more; its status and logs are kept.
    End(Ending),
    /// Nothing of it shall be left.
    Remove,
}

/// Why a sandbox is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its time to live is over.
    Expired,
    /// No leader was heard for the lease: others may run it elsewhere by now.
    LeaseOver,
    /// The machine was started again: what ran on it is gone.
    Restarted,
    /// The cluster sees it as ended, whatever this node thinks.
    GivenUp,
}

/// How far a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing of it is here.
    Absent,
    /// Parts of it may be here, and nothing of it has run: an earlier agent died while it made them.
    Partial,
    /// It has an address.
    Addressed,
    /// Images and namespaces are there.
    Provided,
    /// Network, files, cgroup and bundles are there, and perhaps a monitor that could not start them all.
    Prepared,
    /// All containers were started.
    Started,
    /// And the probe has passed, if there is one.
    Ready,
    /// Its end is recorded, and all but record and logs released.
    Ended,
}

/// How a sandbox has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `None`: every container ended with 0.
    pub failure: Option<Reason>,
    pub message: String,
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub stage: Stage,
    /// It has ended, or can't be made, and that is not recorded yet.
    pub outcome: Option<Outcome>,
}

/// One thing to do. Each may be done again where it was interrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Choose an address, and note that something of the sandbox is here from now on.
    Address,
    /// Pull the images; make namespaces meanwhile.
    Provide,
    /// Mount the files, make the cgroup, render the bundles; make the network meanwhile, which is closed before
    /// anything runs.
    Prepare,
    /// Start the monitor, and with it all containers.
    Start,
    /// Wait until the probe passes.
    AwaitReady,
    /// End the containers and wait for what they leave to say.
    Stop,
    /// Kill every process, and cut the network meanwhile.
    Kill,
    /// Give back mounts, namespaces, network, cgroups and the address; keep logs and record.
    Release,
    /// Record and tell how it has ended.
    Conclude(Outcome),
    /// Remove logs and record, and tell that it is gone.
    Remove,
}

/// The steps from what is there to what is wished; none where that is so already.
#[must_use]
pub fn plan(wish: Wish, observed: &Observed) -> Vec<Step> {
    match (wish, observed.stage) {
        (Wish::Remove, Stage::Absent | Stage::Ended) => vec![Step::Remove],
        (Wish::Remove, _) => vec![Step::Kill, Step::Release, Step::Remove],
        (Wish::Run | Wish::Keep | Wish::End(_), Stage::Ended) => Vec::new(),
        (Wish::Run | Wish::Keep | Wish::End(_), stage) if observed.outcome.is_some() => {
            // What happened by itself goes before what was wished afterwards.
            let outcome = observed.outcome.iter().cloned();
            release(stage)
                .into_iter()
                .chain(outcome.map(Step::Conclude))
                .collect()
        }
        (Wish::Keep, _) => Vec::new(),
        (Wish::End(ending), stage) => {
            let outcome = Step::Conclude(ending.outcome());
            release(stage).into_iter().chain([outcome]).collect()
        }
        (Wish::Run, Stage::Partial) => {
            let mut steps = release(Stage::Partial);
            steps.extend(make(Stage::Absent));
            steps
        }
        (Wish::Run, stage) => make(stage),
    }
}

/// What leads from `stage` to [`Stage::Ready`].
fn make(stage: Stage) -> Vec<Step> {
    [
        (Stage::Addressed, Step::Address),
        (Stage::Provided, Step::Provide),
        (Stage::Prepared, Step::Prepare),
        (Stage::Started, Step::Start),
        (Stage::Ready, Step::AwaitReady),
    ]
    .into_iter()
    .filter(|(reaches, _)| stage < *reaches)
    .map(|(_, step)| step)
    .collect()
}

/// What undoes all that may be there at `stage`: processes first, and asked first where they have run, for their
/// exit codes. One that has ended already is soon asked.
fn release(stage: Stage) -> Vec<Step> {
    match stage {
        Stage::Absent | Stage::Ended => Vec::new(),
        Stage::Addressed | Stage::Provided => vec![Step::Release],
        Stage::Partial | Stage::Prepared => vec![Step::Kill, Step::Release],
        Stage::Started | Stage::Ready => vec![Step::Stop, Step::Kill, Step::Release],
    }
}

impl Ending {
    #[must_use]
    pub fn outcome(self) -> Outcome {
        let (reason, message) = match self {
            Self::Expired => (Reason::ContainerExited, "its time to live, ttl_seconds, is over"),
            Self::LeaseOver => (
                Reason::NodeLost,
                "the node heard no leader for as long as its lease, and ended it",
            ),
            Self::Restarted => (Reason::NodeLost, "the node was restarted"),
            Self::GivenUp => (Reason::NodeLost, "the cluster had given it up"),
        };
        Outcome {
            failure: Some(reason),
            message: message.to_owned(),
        }
    }
}

impl Outcome {
    #[must_use]
    pub fn failed(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            failure: Some(reason),
            message: message.into(),
        }
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.failure {
            Some(_) => Phase::Failed,
            None => Phase::Succeeded,
        }
    }
}

#[cfg(test)]
mod tests;
