//! `/api/v1/sandboxes/{id}/logs`

use super::Rest;
use super::answer::Refusal;
use super::body::Params;
use crate::access::Caller;
use crate::api::{Fault, Lines};
use crate::clock;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use proto::wire;
use serde::Deserialize;
use serde_json::json;
use std::time::{Duration, UNIX_EPOCH};

/// Of an answer that is one document; more must be followed, or cut with `tail`.
const LONGEST_ANSWER: usize = 16 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogsParams {
    #[serde(default)]
    pub(super) container: String,
    tail: Option<u64>,
    /// RFC 3339, or how long ago: `10m`.
    since: Option<String>,
    #[serde(default)]
    follow: bool,
}

/// `{"sandbox_id", "logs": {"lines": [...]}}`; with `follow`, lines of text as they come.
pub(super) async fn read(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Params(params): Params<LogsParams>,
) -> Result<Response, Refusal> {
    read_of(&rest, &caller, id, params).await
}

pub(super) async fn read_of(
    rest: &Rest,
    caller: &Caller,
    id: String,
    params: LogsParams,
) -> Result<Response, Refusal> {
    let request = wire::LogsRequest {
        sandbox_id: id.clone(),
        container: params.container,
        follow: params.follow,
        tail: params.tail,
        since_ms: params.since.as_deref().map_or(Ok(0), since)?,
        timestamps: false,
    };
    let lines = rest.api.logs(caller, request).await?;
    if params.follow {
        return Ok(follow(lines));
    }
    let lines = collect(&id, lines).await?;
    Ok(Json(json!({ "sandbox_id": id, "logs": { "lines": lines } })).into_response())
}

/// Milliseconds since the epoch.
fn since(text: &str) -> Result<u64, Fault> {
    if let Ok(time) = humantime::parse_rfc3339(text) {
        return Ok(millis(time.duration_since(UNIX_EPOCH).unwrap_or_default()));
    }
    match humantime::parse_duration(text) {
        Ok(ago) => Ok(clock::now().0.saturating_sub(millis(ago))),
        Err(_) => Err(Fault::Invalid(format!(
            "since: `{text}` is neither a time such as 2025-01-31T12:00:00Z nor a duration such as 10m"
        ))),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn render(line: &wire::LogLine) -> String {
    format!("[{}] {}", line.container, String::from_utf8_lossy(&line.line))
}

async fn collect(id: &str, mut chunks: Lines) -> Result<Vec<String>, Fault> {
    let mut lines = Vec::new();
    let mut size = 0;
    loop {
        let Some(chunk) = chunks.next().await? else {
            return Ok(lines);
        };
        for line in chunk.lines {
            size += line.line.len();
            lines.push(render(&line));
        }
        if size > LONGEST_ANSWER {
            return Err(Fault::Invalid(format!(
                "sandbox {id} has written more than {LONGEST_ANSWER} bytes: ask for less with tail or since, or \
                 with follow=true"
            )));
        }
    }
}

/// A stream that breaks ends the connection, so that its reader does not take it for the end of the lines.
fn follow(lines: Lines) -> Response {
    let chunks = futures::stream::unfold(Some(lines), |lines| async {
        let mut lines = lines?;
        match lines.next().await {
            Ok(Some(chunk)) => {
                let text: String = chunk.lines.iter().map(|line| render(line) + "\n").collect();
                Some((Ok(text), Some(lines)))
            }
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    (
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        Body::from_stream(chunks),
    )
        .into_response()
}
