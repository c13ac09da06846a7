//! The task of one sandbox: asks [`plan`] what is to be done, has it done, and waits for what happens next. Owns
//! all that is known of the sandbox while the agent lives. Started by `reconcile`, which tells it what is wished.

use crate::clock::{self, BootTime};
use crate::execute::{self, Failure, Halt};
use crate::host::Host;
use crate::lease::Tenure;
use crate::ledger::Wanted;
use crate::plan::{Ending, Observed, Outcome, Stage, Step, Wish, plan};
use crate::record::{self, RecordStage};
use crate::runtime::firewall::Rules;
use crate::runtime::image::Image;
use crate::runtime::monitor::Monitor;
use crate::runtime::namespace::Namespaces;
use crate::runtime::network::NetworkError;
use crate::runtime::user_namespace::IdRange;
use crate::sealed::SealedError;
use crate::trace::{End, Journey};
use proto::id::Uid;
use proto::spec::SandboxSpec;
use proto::status::{AssignedPort, Reason};
use proto::wire::{self, MonitorOutcome, MonitorPhase};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The pause before what could not be taken away is tried again: something holds on to it, most likely for a
/// moment. Doubles up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// What is wished of a sandbox.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Order {
    pub(crate) wish: Wish,
    /// What it is, as the ledger has it; `None`: nobody wants it.
    pub(crate) wanted: Option<Arc<Wanted>>,
}

/// A sandbox as its task knows it.
pub(crate) struct Sandbox {
    pub(crate) host: Arc<Host>,
    pub(crate) uid: Uid,
    pub(crate) dir: PathBuf,
    /// `None` where it is here and nobody wishes for it: then it is never made.
    pub(crate) spec: Option<Arc<SandboxSpec>>,
    pub(crate) ports: Vec<AssignedPort>,
    pub(crate) observed: Observed,
    /// As told last, and with the next change again.
    pub(crate) report: wire::SandboxReport,
    pub(crate) parts: Parts,
    /// Its way to Running, while it is on it and somebody wants to know.
    pub(crate) journey: Option<Box<Journey>>,
}

/// What was made so far, as far as later steps need it.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) ip: Option<Ipv4Addr>,
    /// Of its user namespace; `None`: it has none.
    pub(crate) user_ids: Option<IdRange>,
    /// Made ahead, and not pinned yet.
    pub(crate) namespaces: Option<Namespaces>,
    /// One per container, in their order.
    pub(crate) images: Vec<Arc<Image>>,
    pub(crate) spec: Option<wire::MonitorSpec>,
    pub(crate) monitor: Option<Monitor>,
    /// Removes its network, since its processes are being killed.
    pub(crate) cutting: Option<JoinHandle<Vec<NetworkError>>>,
    /// What the monitor was told of the time to live, and until when it lets the containers run.
    pub(crate) told: Option<Deadline>,
}

/// Until when a monitor lets its containers run, whether the agent lives or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    pub(crate) expires: Option<BootTime>,
    pub(crate) at: Option<BootTime>,
}

/// Tells work that takes long when it is in vain.
pub(crate) struct Interrupt(pub(crate) watch::Receiver<Order>);

impl Interrupt {
    /// Returns when the sandbox is not to run any more.
    pub(crate) async fn arrived(&mut self) {
        loop {
            let order = self.0.borrow_and_update().clone();
            if order.now() != Wish::Run {
                return;
            }
            tokio::select! {
                changed = self.0.changed() => {
                    if changed.is_err() {
                        // Whoever gives orders has gone, and with it the process in a moment.
                        return std::future::pending().await;
                    }
                }
                () = clock::sleep_until(order.expires()) => {}
            }
        }
    }
}

impl Order {
    /// What is wished at this moment.
    fn now(&self) -> Wish {
        match (self.wish, self.expires()) {
            (Wish::Run, Some(at)) if at.has_passed() => Wish::End(Ending::Expired),
            (wish, _) => wish,
        }
    }

    /// When its time to live is over.
    fn expires(&self) -> Option<BootTime> {
        self.wanted.as_ref().and_then(|wanted| wanted.expires)
    }
}

impl Sandbox {
    /// One of which nothing is here.
    pub(crate) fn absent(host: Arc<Host>, uid: Uid, id: String) -> Self {
        let dir = host.folder(uid);
        Self {
            host,
            uid,
            dir,
            spec: None,
            ports: Vec::new(),
            observed: Observed {
                stage: Stage::Absent,
                outcome: None,
            },
            report: wire::SandboxReport {
                sandbox_id: id,
                uid: uid.0,
                phase: wire::Phase::Scheduled.into(),
                ..Default::default()
            },
            parts: Parts::default(),
            journey: None,
        }
    }

    /// Takes over what shall run, once.
    async fn want(&mut self, order: &Order) {
        let Some(wanted) = order.wanted.as_ref().filter(|_| self.spec.is_none()) else {
            return;
        };
        self.learn(wanted);
        if order.now() == Wish::Run && self.observed.stage < Stage::Ready {
            self.journey = Journey::begin(&self.host.exporter, &wanted.desired, clock::moment());
        }
        let connected = (Stage::Prepared..=Stage::Ready).contains(&self.observed.stage);
        if connected && self.observed.outcome.is_none() {
            self.readmit().await;
        }
    }

    /// What runs since before this agent was started has the rules that it shall have, whatever became of them.
    async fn readmit(&mut self) {
        let (Some(spec), Some(ip)) = (self.spec.clone(), self.parts.ip) else {
            return;
        };
        let rules = Rules::of(&spec, &self.ports);
        if let Err(error) = self.host.network.readmit(self.uid, ip, &rules).await {
            self.observed.outcome = Some(Failure::from(error).outcome());
        }
    }

    fn learn(&mut self, wanted: &Wanted) {
        let desired = &wanted.desired;
        self.report.sandbox_id.clone_from(&desired.sandbox_id);
        let read = || {
            let spec = desired.spec.clone().unwrap_or_default();
            let ports = desired.ports.iter().map(|port| AssignedPort::try_from(*port));
            Ok((SandboxSpec::try_from(spec)?, ports.collect::<Result<_, _>>()?))
        };
        match read() {
            Ok((spec, ports)) => (self.spec, self.ports) = (Some(Arc::new(spec)), ports),
            Err(error) if self.observed.stage < Stage::Prepared => {
                self.observed.outcome = Some(Failure::Spec(Box::new(error)).outcome());
            }
            // What runs already goes on.
            Err(error) => tracing::warn!(uid = %self.uid, %error, "cannot read what it shall run"),
        }
    }

    /// Works until nothing of the sandbox is left, which is told then; or for ever.
    pub(crate) async fn run(mut self, mut orders: watch::Receiver<Order>) {
        let mut retry = FIRST_RETRY;
        loop {
            let order = orders.borrow_and_update().clone();
            self.want(&order).await;
            let steps = plan(order.now(), &self.observed);
            if steps.is_empty() {
                retry = FIRST_RETRY;
                if self.idle(&mut orders, &order).await.is_err() {
                    return;
                }
                continue;
            }
            // Until all runs; a probe may take its time.
            let mut way = steps.contains(&Step::Start).then(|| self.host.stock.make_way());
            for step in steps {
                way.take_if(|_| step == Step::AwaitReady);
                let removes = step == Step::Remove;
                let mut interrupt = Interrupt(orders.clone());
                match execute::execute(&mut self, step, &mut interrupt).await {
                    Ok(()) if removes => return,
                    Ok(()) => {}
                    Err(Halt::Interrupted) => break,
                    Err(Halt::Ended(outcome)) => {
                        tracing::info!(sandbox = %self.report.sandbox_id, uid = %self.uid, outcome = outcome.message, "ended");
                        self.observed.outcome = Some(outcome);
                        break;
                    }
                    Err(Halt::Leftovers(leftovers)) => {
                        let what = leftovers.join("; ");
                        tracing::warn!(sandbox = %self.report.sandbox_id, uid = %self.uid, what, "cannot take all of it away yet");
                        self.report.message = format!("cannot take all of it away yet: {what}");
                        self.tell();
                        tokio::select! {
                            () = tokio::time::sleep(retry) => {}
                            _ = orders.changed() => orders.mark_changed(),
                        }
                        retry = (retry * 2).min(LONGEST_RETRY);
                        break;
                    }
                }
                if orders.has_changed().unwrap_or(true) {
                    break;
                }
            }
        }
    }

    /// Waits until something makes a new plan necessary. An error: nobody gives orders any more.
    async fn idle(
        &mut self,
        orders: &mut watch::Receiver<Order>,
        order: &Order,
    ) -> Result<(), watch::error::RecvError> {
        let (Some(monitor), Stage::Ready) = (&self.parts.monitor, self.observed.stage) else {
            return orders.changed().await;
        };
        let mut state = monitor.state();
        let now = state.borrow_and_update().clone();
        self.take_in(&now, order);
        if self.observed.outcome.is_some() {
            return Ok(());
        }
        self.tell();
        self.bound(order).await;
        let at = self.parts.told.and_then(|told| told.at);
        let lease = self.host.lease.clone();
        tokio::select! {
            changed = orders.changed() => changed,
            // Dropped only after a final state, which `now` was not.
            _ = state.changed() => Ok(()),
            () = clock::sleep_until(order.expires()) => Ok(()),
            () = lease.later_than(at) => Ok(()),
        }
    }

    /// Takes over what the monitor says of the containers, and whether that is their end.
    pub(crate) fn take_in(&mut self, state: &wire::MonitorState, order: &Order) {
        for status in &state.containers {
            let known = self.report.containers.iter_mut();
            if let Some(known) = known.into_iter().find(|known| known.name == status.name) {
                let image_digest = std::mem::take(&mut known.image_digest);
                *known = wire::ContainerStatus {
                    image_digest,
                    ..status.clone()
                };
            }
        }
        if matches!(state.phase(), MonitorPhase::Ended | MonitorPhase::Lost) {
            self.observed.outcome = Some(outcome(state, order));
        }
    }

    /// Sees to it that the monitor ends the containers when their time to live or the lease is over, also where
    /// no agent is alive then.
    pub(crate) async fn bound(&mut self, order: &Order) {
        let wanted = self.deadline(order);
        let Some(monitor) = self
            .parts
            .monitor
            .as_ref()
            .filter(|_| self.parts.told != Some(wanted))
        else {
            return;
        };
        match monitor.expire_at(wanted.at).await {
            Ok(()) => self.parts.told = Some(wanted),
            // It has ended, which its state says; or else the agent keeps the time alone, and tries again.
            Err(error) => tracing::warn!(uid = %self.uid, %error, "cannot tell a monitor its deadline"),
        }
    }

    pub(crate) fn deadline(&self, order: &Order) -> Deadline {
        let lease = match self.host.lease.tenure() {
            Tenure::Never => None,
            Tenure::Until(until) => Some(until),
        };
        Deadline {
            expires: order.expires(),
            at: order.expires().into_iter().chain(lease).min(),
        }
    }

    /// Writes down how far it is, for the agent after this one.
    pub(crate) fn record(&self, stage: RecordStage) -> Result<(), SealedError> {
        record::write(&self.dir, stage, &self.report, self.parts.user_ids)
    }

    /// A step begins.
    pub(crate) fn enter(&mut self, step: &Step) {
        match step {
            Step::Conclude(outcome) => self.end_journey(End::Ended(outcome)),
            Step::Remove => self.end_journey(End::Removed),
            Step::Address
            | Step::Provide
            | Step::Prepare
            | Step::Start
            | Step::AwaitReady
            | Step::Stop
            | Step::Kill
            | Step::Release => {}
        }
        if let Some(journey) = &mut self.journey {
            journey.enter(step, Instant::now());
        }
    }

    /// The step that was entered is over.
    pub(crate) fn leave(&mut self, done: Result<&Option<Stage>, &Halt>) {
        let outcome = match done {
            Err(Halt::Ended(outcome)) => Some(outcome),
            Err(Halt::Interrupted | Halt::Leftovers(_)) | Ok(_) => None,
        };
        if let Some(journey) = &mut self.journey {
            journey.leave(outcome, Instant::now());
        }
        match (outcome, done) {
            (Some(outcome), _) => self.end_journey(End::Ended(outcome)),
            (None, Ok(Some(Stage::Ready))) => self.end_journey(End::Running),
            (None, _) => {}
        }
    }

    fn end_journey(&mut self, end: End<'_>) {
        if let Some(journey) = self.journey.take() {
            journey.end(end, Instant::now());
        }
    }

    /// Lets the leader know, if anything has changed.
    pub(crate) fn tell(&self) {
        self.host.reports.set(self.report.clone());
    }
}

/// How a sandbox has ended whose monitor says that it has.
fn outcome(state: &wire::MonitorState, order: &Order) -> Outcome {
    match state.outcome() {
        MonitorOutcome::Succeeded => Outcome {
            failure: None,
            message: String::new(),
        },
        MonitorOutcome::Expired if order.expires().is_some_and(BootTime::has_passed) => {
            Ending::Expired.outcome()
        }
        MonitorOutcome::Expired => Ending::LeaseOver.outcome(),
        MonitorOutcome::Stopped => match order.now() {
            Wish::End(ending) => ending.outcome(),
            Wish::Run | Wish::Keep | Wish::Remove => {
                Outcome::failed(Reason::ContainerExited, "it was stopped")
            }
        },
        MonitorOutcome::Failed | MonitorOutcome::Unspecified => {
            let reason = Reason::try_from(state.reason()).unwrap_or(Reason::AgentError);
            Outcome::failed(reason, state.message.clone())
        }
    }
}
