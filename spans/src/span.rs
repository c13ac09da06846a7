//! A span: what was done for a sandbox, from when to when, and what it hangs on. Pure: it is given times, and but for
//! the numbers of spans, which are random, all comes from what it is given.

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::time::{Instant, SystemTime};

/// The name of what has made these spans, in the words of OpenTelemetry: its instrumentation scope.
const SCOPE: &str = "sandboxd";
/// A failure is read by a person; longer ones are cut, as collectors would.
const MAX_FAILURE_CHARS: usize = 500;

/// The place of a span in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    trace: TraceId,
    span: SpanId,
}

impl Context {
    /// Of the request that has made a sandbox, on which all else hangs, also where it is placed a second time. Its number
    /// comes of the trace id and the sandbox's id alone: no process has to be told it, and a request that is sent again
    /// after a failover is the same span. `None` where `trace_id` is none, of 32 hexadecimal digits and not 0.
    #[must_use]
    pub fn root(trace_id: &str, sandbox: &str) -> Option<Self> {
        let trace = TraceId::from_hex(trace_id).ok()?;
        if trace_id.len() != 32 || trace == TraceId::INVALID {
            return None;
        }
        let digest = Sha256::new()
            .chain_update(trace.to_bytes())
            .chain_update(sandbox)
            .finalize();
        let number = digest.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte));
        // 0 is no number of a span.
        let span = SpanId::from(number.max(1));
        Some(Self { trace, span })
    }

    /// A new place in the same trace.
    #[must_use]
    pub fn beside(self) -> Self {
        Self {
            span: RandomIdGenerator::default().new_span_id(),
            ..self
        }
    }
}

/// A moment by both clocks: what follows it is placed by the monotonic one, so that spans of one piece of work
/// stand in order whatever becomes of the wall clock meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub wall: SystemTime,
    pub instant: Instant,
}

impl Moment {
    /// What the wall clock would have said, had nobody set it since.
    #[must_use]
    pub fn wall_at(self, instant: Instant) -> SystemTime {
        self.wall + instant.saturating_duration_since(self.instant)
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    name: &'static str,
    context: Context,
    parent: SpanId,
    kind: SpanKind,
    begun: SystemTime,
    ended: SystemTime,
    attributes: Vec<KeyValue>,
    failure: Option<String>,
}

impl Span {
    /// The span of the request itself. `caller` is the number of the span that its sender has made for it; `None`: it has
    /// made none, or says that it does not record it.
    #[must_use]
    pub fn root(
        name: &'static str,
        context: Context,
        caller: Option<u64>,
        (begun, ended): (SystemTime, SystemTime),
    ) -> Self {
        Self {
            name,
            context,
            parent: caller.map_or(SpanId::INVALID, SpanId::from),
            kind: SpanKind::Server,
            begun,
            ended,
            attributes: Vec::new(),
            failure: None,
        }
    }

    /// A span below another one, at a place of its own.
    #[must_use]
    pub fn below(parent: Context, name: &'static str, times: (SystemTime, SystemTime)) -> Self {
        Self::at(parent.beside(), parent, name, times)
    }

    /// A span below another one, at a place that is known already, since others hang on it.
    #[must_use]
    pub fn at(
        context: Context,
        parent: Context,
        name: &'static str,
        (begun, ended): (SystemTime, SystemTime),
    ) -> Self {
        Self {
            name,
            context,
            parent: parent.span,
            kind: SpanKind::Internal,
            begun,
            ended,
            attributes: Vec::new(),
            failure: None,
        }
    }

    /// Its part in what passes between processes.
    #[must_use]
    pub fn of_kind(self, kind: SpanKind) -> Self {
        Self { kind, ..self }
    }

    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.attributes.push(KeyValue::new(key, value.into()));
        self
    }

    #[must_use]
    pub fn with_number(mut self, key: &'static str, value: u64) -> Self {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.attributes.push(KeyValue::new(key, value));
        self
    }

    /// It has not led where it should.
    #[must_use]
    pub fn failed(self, why: &str) -> Self {
        Self {
            failure: Some(why.chars().take(MAX_FAILURE_CHARS).collect()),
            ..self
        }
    }

    /// As the SDK exports it.
    pub(crate) fn into_data(self) -> SpanData {
        SpanData {
            span_context: SpanContext::new(
                self.context.trace,
                self.context.span,
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: self.parent,
            parent_span_is_remote: false,
            span_kind: self.kind,
            name: Cow::Borrowed(self.name),
            start_time: self.begun,
            end_time: self.ended.max(self.begun),
            attributes: self.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: match self.failure {
                Some(why) => Status::error(why),
                None => Status::Unset,
            },
            instrumentation_scope: InstrumentationScope::builder(SCOPE).build(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn root() -> Context {
        Context::root(TRACE, "web").expect("a trace id")
    }

    fn second(n: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(n)
    }

    #[test]
    fn root_is_known_to_all_and_is_one_per_sandbox() {
        assert_eq!(Context::root(TRACE, "web"), Some(root()));
        // Processes of different versions must agree on it.
        assert_eq!(root().span.to_string(), "a20785b99668ea28");
        assert_ne!(Context::root(TRACE, "db"), Some(root()));
        for none in [
            "",
            "0",
            "00000000000000000000000000000000",
            "4bf9",
            "not hexadecimal",
        ] {
            assert_eq!(Context::root(none, "web"), None, "{none}");
        }
    }

    #[test]
    fn span_is_exported_with_its_place_its_times_and_its_failure() {
        let run = root().beside();
        let span = Span::at(run, root(), "run", (second(3), second(5)))
            .of_kind(SpanKind::Consumer)
            .with("a", "b")
            .with_number("n", u64::MAX)
            .failed(&"ü".repeat(MAX_FAILURE_CHARS + 1));
        let data = span.into_data();
        assert_eq!(data.span_context.trace_id().to_string(), TRACE);
        assert_eq!(data.span_context.span_id(), run.span);
        assert!(data.span_context.is_sampled());
        assert_eq!(data.parent_span_id, root().span);
        assert_eq!((data.start_time, data.end_time), (second(3), second(5)));
        assert_eq!(
            data.attributes,
            [KeyValue::new("a", "b"), KeyValue::new("n", i64::MAX)]
        );
        assert_eq!(data.status, Status::error("ü".repeat(MAX_FAILURE_CHARS)));
    }

    #[test]
    fn root_hangs_on_its_caller_and_no_span_ends_before_it_begins() {
        let apply = |caller| Span::root("apply", root(), caller, (second(3), second(2))).into_data();
        assert_eq!(apply(None).parent_span_id, SpanId::INVALID);
        assert_eq!(apply(Some(5)).parent_span_id, SpanId::from(5));
        assert_eq!(apply(None).end_time, second(3));
        assert_eq!(apply(None).status, Status::Unset);
    }

    #[test]
    fn moment_places_what_follows_by_the_monotonic_clock() {
        let instant = Instant::now();
        let moment = Moment {
            wall: second(10),
            instant,
        };
        assert_eq!(moment.wall_at(instant + Duration::from_secs(2)), second(12));
        assert_eq!(moment.wall_at(instant), second(10));
    }
}
