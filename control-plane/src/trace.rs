//! Which request a line of the log belongs to, over all processes: the trace id of W3C's trace context, taken from the
//! header `traceparent` or made here. It is a field of all lines that are written on behalf of the request, goes into the
//! command, stays with a sandbox that it makes, and is told to the agent that runs it.
//!
//! Under the same id go the spans of a sandbox's way as far as this process sees it: `apply`, the request, on which all
//! others hang, `propose`, `place` and `tell`. What they say is put together here (pure); times are given.
//!
//! Set by the gate around each request; read by `api::write`. Spans are made by it, by `controller` and by `session`.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use proto::object::Sandbox;
use proto::wire::{self, object::Object};
use spans::{Context, Moment, Span, SpanKind, attribute};
use std::fmt;
use std::future::Future;
use std::num::NonZeroU64;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// `00-<trace id>-<id of the caller's span>-<flags>`, in hexadecimal.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Tells whoever asked under which id the logs have it.
pub const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");
/// The flag of a caller that records spans of its own.
const SAMPLED: u8 = 1;

/// Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

/// A request, as its trace has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    id: TraceId,
    /// The caller's span; `None`: it has none, or does not record it.
    caller: Option<NonZeroU64>,
    begun: Moment,
}

tokio::task_local! {
    static CURRENT: Trace;
}

impl Trace {
    /// As the headers tell, or a new one, of a request that has come at `begun`.
    #[must_use]
    pub fn of(headers: &HeaderMap, begun: Moment) -> Self {
        let told = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let (id, caller) = told
            .and_then(parse)
            .unwrap_or_else(|| (TraceId(rand::random_range(1..=u128::MAX)), None));
        Self { id, caller, begun }
    }

    /// Of the request that is being answered.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|trace| *trace).ok()
    }

    /// Answers a request under this trace.
    pub async fn answer<T>(self, answering: impl Future<Output = T>) -> T {
        CURRENT.scope(self, answering).await
    }

    #[must_use]
    pub fn id(self) -> TraceId {
        self.id
    }

    /// For the next replica.
    #[must_use]
    pub fn parent(self) -> HeaderValue {
        let (part, flags) = match self.caller {
            Some(caller) => (caller.get(), SAMPLED),
            None => (rand::random_range(1..=u64::MAX), 0),
        };
        let text = format!("00-{}-{part:016x}-{flags:02x}", self.id);
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
    }

    /// The request and its proposal, between `proposed` and `now`, where a sandbox was made by it: also by an earlier
    /// attempt, under whose trace id the sandbox is.
    #[must_use]
    pub fn applied(self, accepted: &wire::Accepted, proposed: Instant, now: Instant) -> Vec<Span> {
        let is_made = matches!(
            accepted.outcome(),
            wire::Outcome::Created | wire::Outcome::Replaced
        );
        let object = accepted.object.as_ref().and_then(|object| object.object.as_ref());
        let Some(Object::Sandbox(sandbox)) = object.filter(|_| is_made) else {
            return Vec::new();
        };
        let Some(root) = Context::root(&sandbox.trace_id, &sandbox.id) else {
            return Vec::new();
        };
        let is_own = sandbox.trace_id == self.id.to_string();
        let caller = self.caller.filter(|_| is_own).map(NonZeroU64::get);
        let at = |instant| self.begun.wall_at(instant);
        let apply = Span::root("apply", root, caller, (self.begun.wall, at(now)))
            .with(attribute::SANDBOX_ID, sandbox.id.as_str())
            .with(attribute::SANDBOX_UID, sandbox.uid.to_string());
        vec![apply, Span::below(root, "propose", (at(proposed), at(now)))]
    }
}

/// The placement of a sandbox that has its node, planned and proposed between `begun` and `now`.
#[must_use]
pub fn placed(sandbox: &Sandbox, begun: Moment, now: Instant) -> Option<Span> {
    let created = UNIX_EPOCH + Duration::from_millis(sandbox.created_at.0);
    let pending = begun.wall_at(now).duration_since(created).unwrap_or_default();
    let pending_ms = u64::try_from(pending.as_millis()).unwrap_or(u64::MAX);
    Some(of_node(sandbox, "place", begun, now)?.with_number(attribute::PENDING_MS, pending_ms))
}

/// That its agent was told to run a sandbox, between `begun` and `now`.
#[must_use]
pub fn told(sandbox: &Sandbox, begun: Moment, now: Instant) -> Option<Span> {
    Some(of_node(sandbox, "tell", begun, now)?.of_kind(SpanKind::Producer))
}

fn of_node(sandbox: &Sandbox, name: &'static str, begun: Moment, now: Instant) -> Option<Span> {
    let root = Context::root(&sandbox.trace_id, sandbox.id.as_str())?;
    let node = sandbox.status.node_name.as_ref()?;
    let span = Span::below(root, name, (begun.wall, begun.wall_at(now)))
        .with(attribute::SANDBOX_ID, sandbox.id.as_str())
        .with(attribute::SANDBOX_UID, sandbox.uid.to_string())
        .with(attribute::NODE_ID, node.as_str());
    Some(span)
}

impl TraceId {
    /// For whoever asked.
    #[must_use]
    pub fn value(self) -> HeaderValue {
        HeaderValue::from_str(&self.to_string()).unwrap_or(HeaderValue::from_static(""))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Any version but the one that is forbidden; later ones may have more parts.
fn parse(text: &str) -> Option<(TraceId, Option<NonZeroU64>)> {
    let mut parts = text.split('-');
    let (version, id, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |part: &str, len| {
        part.len() == len
            && part
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let whole = is_hex(version, 2) && is_hex(id, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    if !whole || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let id = u128::from_str_radix(id, 16).ok()?;
    let parent = NonZeroU64::new(u64::from_str_radix(parent, 16).ok()?)?;
    let is_recorded = u8::from_str_radix(flags, 16).ok()? & SAMPLED != 0;
    (id != 0).then_some((TraceId(id), is_recorded.then_some(parent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, u64)>) {
        let read = parse(text).map(|(id, caller)| (id.to_string(), caller.map_or(0, NonZeroU64::get)));
        let expected = expected.map(|(id, caller)| (id.to_owned(), caller));
        assert_eq!(read, expected, "{text}");
    }

    #[test]
    fn trace_context_is_read_as_w3c_has_it() {
        check(
            &format!("00-{ID}-00f067aa0ba902b7-01"),
            Some((ID, 0x00f0_67aa_0ba9_02b7)),
        );
        // A caller that does not record its span: nothing can hang on it.
        check(&format!("00-{ID}-00f067aa0ba902b7-00"), Some((ID, 0)));
        check(&format!("01-{ID}-0000000000000001-03-more"), Some((ID, 1)));
        check(&format!("00-{ID}-00f067aa0ba902b7-01-more"), None);
        check(&format!("ff-{ID}-00f067aa0ba902b7-01"), None);
        check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None);
        check(&format!("00-{ID}-0000000000000000-01"), None);
        check(&format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()), None);
        check("", None);
        check("00-1-2-3", None);
    }

    #[tokio::test]
    async fn trace_is_known_while_the_request_is_answered_and_handed_on() {
        let begun = crate::clock::moment();
        let told = |trace: Trace| HeaderMap::from_iter([(TRACEPARENT, trace.parent())]);
        let made = Trace::of(&HeaderMap::new(), begun);
        assert_eq!(made.answer(async { Trace::current() }).await, Some(made));
        assert_eq!(Trace::current(), None);
        assert_eq!(Trace::of(&told(made), begun), made);
        let header = HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let of_caller = Trace::of(&HeaderMap::from_iter([(TRACEPARENT, header.clone())]), begun);
        assert_eq!(
            of_caller.parent(),
            header,
            "the caller's span goes on to the leader"
        );
        assert_eq!(Trace::of(&told(of_caller), begun), of_caller);
    }

    #[test]
    fn only_what_makes_a_sandbox_is_recorded() {
        let trace = Trace::of(&HeaderMap::new(), crate::clock::moment());
        let spans = |outcome: wire::Outcome, trace_id: String| {
            let sandbox = wire::Sandbox {
                uid: 7,
                trace_id,
                ..Default::default()
            };
            let accepted = wire::Accepted {
                outcome: outcome.into(),
                object: Some(wire::Object {
                    object: Some(Object::Sandbox(sandbox)),
                }),
            };
            let now = trace.begun.instant;
            trace.applied(&accepted, now, now).len()
        };
        let own = || trace.id.to_string();
        assert_eq!(spans(wire::Outcome::Created, own()), 2);
        assert_eq!(spans(wire::Outcome::Created, ID.to_owned()), 2, "tried again");
        assert_eq!(spans(wire::Outcome::Replaced, own()), 2);
        assert_eq!(spans(wire::Outcome::Unchanged, own()), 0);
        assert_eq!(spans(wire::Outcome::Configured, own()), 0);
        assert_eq!(
            spans(wire::Outcome::Created, String::new()),
            0,
            "of an older version"
        );
    }
}
