//! Which request a line of the log belongs to, over all processes: the trace id of W3C's trace context, taken from the
//! header `traceparent` or made here. It is a field of all lines that are written on behalf of the request, goes into the
//! command, stays with a sandbox that it makes, and is told to the agent that runs it.
//!
//! Set by the gate around each request; read by `api::write`.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;
use std::future::Future;

/// `00-<trace id>-<id of the caller's part>-<flags>`, in hexadecimal.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Tells whoever asked under which id the logs have it.
pub const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

tokio::task_local! {
    static CURRENT: TraceId;
}

impl TraceId {
    /// The one that the headers tell, or a new one.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let told = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        told.and_then(parse)
            .unwrap_or_else(|| Self(rand::random_range(1..=u128::MAX)))
    }

    /// Of the request that is being answered.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|id| *id).ok()
    }

    /// Answers a request under this id.
    pub async fn answer<T>(self, answering: impl Future<Output = T>) -> T {
        CURRENT.scope(self, answering).await
    }

    /// For the next replica.
    #[must_use]
    pub fn parent(self) -> HeaderValue {
        let part = rand::random_range(1..=u64::MAX);
        let text = format!("00-{self}-{part:016x}-00");
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
    }

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
fn parse(text: &str) -> Option<TraceId> {
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
    (id != 0).then_some(TraceId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let id = parse(text).map(|id| id.to_string());
        assert_eq!(id.as_deref(), expected, "{text}");
    }

    #[test]
    fn trace_context_is_read_as_w3c_has_it() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        check(&format!("00-{id}-00f067aa0ba902b7-01"), Some(id));
        check(&format!("01-{id}-00f067aa0ba902b7-01-more"), Some(id));
        check(&format!("00-{id}-00f067aa0ba902b7-01-more"), None);
        check(&format!("ff-{id}-00f067aa0ba902b7-01"), None);
        check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None);
        check(&format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()), None);
        check("", None);
        check("00-1-2-3", None);
    }

    #[tokio::test]
    async fn id_is_known_while_the_request_is_answered_and_handed_on() {
        let id = TraceId::of(&HeaderMap::new());
        assert_eq!(id.answer(async { TraceId::current() }).await, Some(id));
        assert_eq!(TraceId::current(), None);
        let headers = HeaderMap::from_iter([(TRACEPARENT, id.parent())]);
        assert_eq!(TraceId::of(&headers), id);
    }
}
