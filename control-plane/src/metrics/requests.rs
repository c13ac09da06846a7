//! How many requests of users and agents were answered, how, and how fast.

use crate::access::method_rule;
use crate::clock;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

type Labels<const N: usize> = [(&'static str, String); N];
type Times = Family<Labels<2>, Histogram, fn() -> Histogram>;

/// Clones share.
#[derive(Debug, Clone)]
pub struct Requests {
    answered: Family<Labels<3>, Counter>,
    seconds: Times,
}

/// From half a millisecond, which a read from memory takes, to 16 s, beyond every deadline of ours.
fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            answered: Family::default(),
            seconds: Family::new_with_constructor(histogram),
        }
    }
}

impl Requests {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "api_requests",
            "Requests answered, by transport, method and code (of streams, of their begin)",
            self.answered.clone(),
        );
        registry.register_with_unit(
            "api_request",
            "Time until a request was answered, or its stream has begun",
            Unit::Seconds,
            self.seconds.clone(),
        );
    }
}

/// Around everything that is served to users and agents.
pub async fn observe(State(requests): State<Requests>, request: Request, next: Next) -> Response {
    let grpc = is_grpc(request.headers());
    let transport = if grpc { "grpc" } else { "rest" };
    let method = if grpc {
        grpc_method(request.uri().path())
    } else {
        let path = request.extensions().get::<MatchedPath>();
        format!(
            "{} {}",
            request.method(),
            path.map_or("other", MatchedPath::as_str)
        )
    };
    let begun = clock::instant();
    let response = next.run(request).await;
    let code = if grpc {
        grpc_code(response.headers())
    } else {
        response.status().as_u16().to_string()
    };
    let labels = [("transport", transport.to_owned()), ("method", method)];
    let times = requests.seconds.get_or_create(&labels);
    times.observe(begun.elapsed().as_secs_f64());
    drop(times);
    let [transport, method] = labels;
    let labels = [transport, method, ("code", code)];
    requests.answered.get_or_create(&labels).inc();
    response
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    content.is_some_and(|content| content.starts_with(b"application/grpc"))
}

/// `Control/Get`; of methods that there are: what else is asked for must make no new series.
fn grpc_method(path: &str) -> String {
    let known = method_rule(path).map(|_| path.rsplit_once('.').map_or(path, |(_, method)| method));
    known.unwrap_or("other").to_owned()
}

/// What failed at once says so in its headers.
fn grpc_code(headers: &HeaderMap) -> String {
    let code = headers
        .get("grpc-status")
        .and_then(|code| code.to_str().ok()?.parse().ok());
    format!("{:?}", tonic::Code::from_i32(code.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_methods_make_series() {
        assert_eq!(grpc_method("/sandboxd.v1.Control/Get"), "Control/Get");
        assert_eq!(grpc_method("/sandboxd.v1.Control/Guess"), "other");
        assert_eq!(grpc_method("/"), "other");
    }

    #[test]
    fn code_is_called_as_its_kind_calls_it() {
        let mut headers = HeaderMap::new();
        assert_eq!(grpc_code(&headers), "Ok");
        headers.insert("grpc-status", "8".parse().expect("a value"));
        assert_eq!(grpc_code(&headers), "ResourceExhausted");
    }
}
