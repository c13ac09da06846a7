//! A stream that the leader asks for on behalf of one user: the logs of a sandbox. The agent opens it, since
//! nothing dials an agent; it ends with the last line, when the user has left, or with the session.

use super::Node;
use crate::record;
use crate::report::Reports;
use crate::runtime::logs::{self, Line, LogsError, Query, Source, Stream};
use futures::StreamExt;
use proto::id::{Name, SandboxId, Uid};
use proto::wire;
use proto::wire::agent_client::AgentClient;
use proto::wire::open_relay::What;
use proto::wire::relay_up::Message as Up;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Batches under way to a user; a slow one makes the reading wait, not the memory grow.
const AHEAD: usize = 2;

/// Why there are no logs to give.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("sandbox {0} is not on this node")]
    NoSandbox(String),
    #[error("sandbox {sandbox} has no container {container}; it has {}", .known.join(", "))]
    NoContainer {
        sandbox: String,
        container: String,
        known: Vec<String>,
    },
    #[error(transparent)]
    Logs(#[from] LogsError),
    #[error("this agent does not know what is asked for; it is older than the leader")]
    Unknown,
}

/// Serves the relay to its end.
pub(super) async fn run(open: wire::OpenRelay, mut client: AgentClient<Channel>, node: Arc<Node>) {
    let (up, messages) = mpsc::channel(AHEAD);
    // The first message names the relay; there is room for it.
    up.try_send(message(Up::RelayId(open.relay_id.clone()))).ok();
    let fed = async {
        let served = match open.what {
            Some(What::Logs(request)) => serve_logs(request, &node, &up).await,
            None => Err(RelayError::Unknown),
        };
        if let Err(error) = served {
            up.send(message(Up::Error(error.to_string()))).await.ok();
        }
        drop(up);
    };
    let carried = async {
        let mut down = client.relay(ReceiverStream::new(messages)).await?.into_inner();
        // Says nothing; its end is the user's.
        while down.message().await?.is_some() {}
        Ok::<_, tonic::Status>(())
    };
    // Both, since lines are under way still when the last one has been read; but no reading for nobody.
    let mut fed = std::pin::pin!(fed);
    let mut carried = std::pin::pin!(carried);
    let ended = tokio::select! {
        ended = &mut carried => ended,
        () = &mut fed => carried.await,
    };
    if let Err(status) = ended {
        tracing::debug!(relay = open.relay_id, %status, "relay broken");
    }
}

async fn serve_logs(
    request: wire::LogsRequest,
    node: &Node,
    up: &mpsc::Sender<wire::RelayUp>,
) -> Result<(), RelayError> {
    let found = SandboxId::new(&*request.sandbox_id)
        .ok()
        .and_then(|id| node.reports.find(&id));
    let Some((uid, report)) = found.filter(|(_, r)| r.phase() != wire::Phase::Deleting) else {
        return Err(RelayError::NoSandbox(request.sandbox_id));
    };
    if request.follow {
        node.reports.begun(uid).await;
    }
    let sources = sources(&request, &report, &record::folder(&node.sandboxes, uid))?;
    let query = Query {
        tail: request.tail,
        since: Duration::from_millis(request.since_ms),
        follow: request.follow,
    };
    let ended = CancellationToken::new();
    let mut lines = logs::read(sources, query, ended.clone());
    let mut ending = std::pin::pin!(end(&node.reports, uid, &ended));
    loop {
        let batch = tokio::select! {
            batch = lines.next() => batch,
            () = &mut ending, if !ended.is_cancelled() => continue,
        };
        let Some(batch) = batch else {
            return Ok(());
        };
        let lines = batch?.into_iter().map(line).collect();
        if up
            .send(message(Up::Logs(wire::LogsChunk { lines })))
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

fn message(message: Up) -> wire::RelayUp {
    wire::RelayUp {
        message: Some(message),
    }
}
