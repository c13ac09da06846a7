//! What a sandbox's containers have written, and go on to write.

use super::{RelayError, Sandboxes, Talk};
use crate::report::Reports;
use crate::runtime::logs::{self, Line, Query, Source, Stream};
use futures::StreamExt;
use proto::id::{Name, Uid};
use proto::wire;
use proto::wire::relay_up::Message;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// To the last line, with `follow` of a sandbox that has ended.
pub(super) async fn serve(
    request: wire::LogsRequest,
    talk: &mut Talk,
    sandboxes: &Sandboxes,
) -> Result<(), RelayError> {
    let found = sandboxes.find(&request.sandbox_id)?;
    if request.follow {
        sandboxes.reports.begun(found.uid).await;
    }
    let sources = sources(&request, &found.report, &found.dir)?;
    let query = Query {
        tail: request.tail,
        since: Duration::from_millis(request.since_ms),
        follow: request.follow,
    };
    let ended = CancellationToken::new();
    let mut lines = logs::read(sources, query, ended.clone());
    let mut ending = std::pin::pin!(end(&sandboxes.reports, found.uid, &ended));
    loop {
        let batch = tokio::select! {
            batch = lines.next() => batch,
            () = &mut ending, if !ended.is_cancelled() => continue,
        };
        let Some(batch) = batch else {
            return Ok(());
        };
        let lines = batch?.into_iter().map(line).collect();
        if talk
            .says
            .message(Message::Logs(wire::LogsChunk { lines }))
            .await
            .is_err()
        {
            return Ok(());
        }
    }
}

/// Lets the reading end once nothing more is written.
async fn end(reports: &Reports, uid: Uid, ended: &CancellationToken) {
    reports.ended(uid).await;
    ended.cancel();
}

fn sources(
    request: &wire::LogsRequest,
    report: &wire::SandboxReport,
    dir: &Path,
) -> Result<Vec<Source>, RelayError> {
    let known: Vec<Name> = report
        .containers
        .iter()
        .filter_map(|c| Name::new(&*c.name).ok())
        .collect();
    let wanted = |name: &&Name| request.container.is_empty() || name.as_str() == request.container;
    let sources: Vec<_> = known.iter().filter(wanted).collect();
    if sources.is_empty() {
        return Err(RelayError::NoContainer {
            sandbox: request.sandbox_id.clone(),
            container: request.container.clone(),
            known: known.iter().map(ToString::to_string).collect(),
        });
    }
    let source = |name: &Name| Source {
        container: name.clone(),
        dir: crate::runtime::files::logs_of(dir, name),
    };
    let there = sources
        .into_iter()
        .map(source)
        .filter(|source| source.dir.is_dir());
    Ok(there.collect())
}

fn line(line: Line) -> wire::LogLine {
    wire::LogLine {
        container: line.container.to_string(),
        stderr: line.stream == Stream::Stderr,
        time_unix_ns: u64::try_from(line.time.as_nanos()).unwrap_or(u64::MAX),
        line: line.text,
    }
}
