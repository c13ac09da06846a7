//! Hands a request on to the leader: a client of any replica needs to know no other. Where the leader is lost meanwhile, the
//! next one is asked, under the same request id: who waits sees a pause. Owns the connections to leaders.

use super::Rest;
use super::answer::Refusal;
use super::body::{REQUEST_ID, new_request_id};
use crate::access::{Caller, FORWARDED, SOURCE};
use crate::api::Fault;
use crate::raft::Leader;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use identity::dial::{Dialer, Http1Dialer};
use std::time::Duration;
use tokio::time::timeout;

/// Until the leader begins to answer: longer than it tries to commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a body, as handlers take them.
const MAX_BODY_BYTES: usize = 2 << 20;

/// Connections to leaders.
#[derive(Clone)]
pub(super) struct Leaders(Client<Http1Dialer, Body>);

/// Before handlers that only the leader's can serve.
pub(super) async fn to_leader(State(rest): State<Rest>, request: Request, next: Next) -> Response {
    if request.headers().contains_key(FORWARDED) || rest.api.leadership().is_self {
        return next.run(request).await;
    }
    let (mut head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        let why = format!("the body can't be read, or has more than {MAX_BODY_BYTES} bytes");
        return Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, why).into_response();
    };
    if !head.headers.contains_key(REQUEST_ID)
        && let Ok(id) = HeaderValue::from_str(&new_request_id())
    {
        head.headers.insert(REQUEST_ID, id);
    }
    let whole = || Request::from_parts(head.clone(), Body::from(body.clone()));
    loop {
        let leadership = rest.api.settled_leadership().await;
        if leadership.is_self {
            return next.run(whole()).await;
        }
        let Some(leader) = leadership.leader else {
            return Refusal::from(Fault::NotLeader(None)).into_response();
        };
        match hand_on(&rest, &leader, whole()).await {
            Ok(response) => return response,
            Err(_) if rest.api.is_replaced(&leader).await => {}
            Err(message) => {
                let endpoint = leader.endpoint;
                return Refusal::from(Fault::Forward { endpoint, message }).into_response();
            }
        }
    }
}

/// Until it answers, or another one leads.
async fn hand_on(rest: &Rest, leader: &Leader, request: Request) -> Result<Response, String> {
    tokio::select! {
        biased;
        answered = rest.leaders.forward(&leader.endpoint, request) => answered,
        () = rest.api.replaced(leader) => Err("another replica leads now".to_owned()),
    }
}

impl Leaders {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self(Client::builder(TokioExecutor::new()).build(Http1Dialer(dialer)))
    }

    async fn forward(&self, endpoint: &str, mut request: Request) -> Result<Response, String> {
        let caller = request.extensions().get::<Caller>();
        let source = caller.and_then(|caller| HeaderValue::from_str(&caller.source.to_string()).ok());
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri = format!("{}{path}", endpoint.trim_end_matches('/'));
        *request.uri_mut() = uri.parse::<Uri>().map_err(|e| format!("`{uri}`: {e}"))?;
        let headers = request.headers_mut();
        // Of this connection, not of the request.
        for name in [
            header::HOST,
            header::CONNECTION,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
        ] {
            headers.remove(name);
        }
        // The next replica answers it, whatever it knows of the leader, and wants to know from whom it is.
        headers.insert(FORWARDED, HeaderValue::from_static("1"));
        if let Some(source) = source {
            headers.insert(SOURCE, source);
        }
        *request.version_mut() = axum::http::Version::HTTP_11;
        match timeout(ANSWER_TIMEOUT, self.0.request(request)).await {
            Ok(Ok(response)) => Ok(response.map(Body::new)),
            Ok(Err(error)) => Err(innermost(&error)),
            Err(_) => Err(format!("no answer within {ANSWER_TIMEOUT:?}")),
        }
    }
}

/// "Connection refused" says more than "client error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
