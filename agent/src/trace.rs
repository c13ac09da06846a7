//! The spans of a sandbox's way to Running on its node: `run`, below the request that has made it, its steps as
//! [`crate::execute`] does them, and their stages as `timings` has them. Owns which there are and how they hang together;
//! measures nothing. Kept by the sandbox's task until it runs, or is known never to.

use crate::plan::{Outcome, Step};
use proto::id::Uid;
use proto::wire::DesiredSandbox;
use spans::{Context, Exporter, Moment, Span, SpanKind, attribute};
use std::time::{Instant, SystemTime};

/// One way to Running.
#[derive(Debug)]
pub(crate) struct Journey {
    exporter: Exporter,
    id: String,
    uid: Uid,
    /// The request, of which another process tells.
    request: Context,
    run: Context,
    begun: Moment,
    /// What is being done.
    step: Option<Doing>,
}

#[derive(Debug)]
struct Doing {
    name: &'static str,
    context: Context,
    begun: Instant,
}

/// Where a way has led.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End<'a> {
    Running,
    /// It never will be.
    Ended(&'a Outcome),
    /// Nobody wants it any more.
    Removed,
}

impl Journey {
    /// Begins one, where anybody wants to know and the trace is known.
    pub(crate) fn begin(exporter: &Exporter, desired: &DesiredSandbox, begun: Moment) -> Option<Box<Self>> {
        if !exporter.is_on() {
            return None;
        }
        let request = Context::root(&desired.trace_id, &desired.sandbox_id)?;
        Some(Box::new(Self {
            exporter: exporter.clone(),
            id: desired.sandbox_id.clone(),
            uid: Uid(desired.uid),
            request,
            run: request.beside(),
            begun,
            step: None,
        }))
    }

    /// A step begins; those that do not lead to Running are no part of it.
    pub(crate) fn enter(&mut self, step: &Step, now: Instant) {
        self.step = name(step).map(|name| Doing {
            name,
            context: self.run.beside(),
            begun: now,
        });
    }

    /// A part of the present step was done. A step that is one stage as a whole is told once.
    pub(crate) fn stage(&self, name: &'static str, begun: Instant, ended: Instant) {
        if let Some(step) = self.step.as_ref().filter(|step| step.name != name) {
            self.tell(Span::below(step.context, name, self.between(begun, ended)));
        }
    }

    /// The present step is over.
    pub(crate) fn leave(&mut self, outcome: Option<&Outcome>, now: Instant) {
        if let Some(step) = self.step.take() {
            let times = self.between(step.begun, now);
            let span = Span::at(step.context, self.run, step.name, times);
            self.tell(with_outcome(span, outcome));
        }
    }

    /// It is over.
    pub(crate) fn end(&self, end: End<'_>, now: Instant) {
        let times = (self.begun.wall, self.begun.wall_at(now));
        let span = Span::at(self.run, self.request, "run", times)
            .of_kind(SpanKind::Consumer)
            .with(attribute::SANDBOX_ID, self.id.as_str())
            .with(attribute::SANDBOX_UID, self.uid.to_string());
        self.tell(match end {
            End::Running => span,
            End::Ended(outcome) => with_outcome(span, Some(outcome)),
            End::Removed => span.failed("removed before it ran"),
        });
    }

    fn between(&self, begun: Instant, ended: Instant) -> (SystemTime, SystemTime) {
        (self.begun.wall_at(begun), self.begun.wall_at(ended))
    }

    fn tell(&self, span: Span) {
        self.exporter.record([span]);
    }
}

fn with_outcome(span: Span, outcome: Option<&Outcome>) -> Span {
    match outcome {
        Some(Outcome {
            failure: Some(reason),
            message,
        }) => span.with(attribute::REASON, reason.to_string()).failed(message),
        Some(Outcome { failure: None, .. }) | None => span,
    }
}

fn name(step: &Step) -> Option<&'static str> {
    match step {
        Step::Address => Some("address"),
        Step::Provide => Some("provide"),
        Step::Prepare => Some("prepare"),
        Step::Start => Some("start"),
        Step::AwaitReady => Some("ready"),
        Step::Stop | Step::Kill | Step::Release | Step::Conclude(_) | Step::Remove => None,
    }
}
