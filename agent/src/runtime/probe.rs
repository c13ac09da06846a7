//! Asks a sandbox whether it is ready, as its readiness probe says. Connects from the node to the sandbox's
//! address, and trusts nothing that comes back: every answer is bounded in time and size.
//!
//! Called by the task that starts a sandbox, which drops the future where it gives up.

use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use proto::spec::{Probe, ProbeCheck};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;

/// As Kubernetes has its own: programs tell probes from users by it.
const AGENT: &str = concat!("sbxlet-probe/", env!("CARGO_PKG_VERSION"));
/// Of the head of an answer; servers send some hundred bytes.
const MAX_HEAD: usize = 64 << 10;
/// A status from 200 to 399 passes. The upper end of a redirect: it is not followed.
const PASSES: std::ops::RangeInclusive<u16> = 200..=399;

/// The sandbox did not become ready.
#[derive(Debug, thiserror::Error)]
#[error("the readiness probe ({what}) failed {failures} times in a row, at last because {last}")]
pub struct ProbeFailure {
    /// Such as `http GET /healthz on port 80`.
    pub what: String,
    pub failures: u32,
    pub last: CheckFailure,
}

/// Why one attempt did not pass; completes "because".
#[derive(Debug, thiserror::Error)]
pub enum CheckFailure {
    #[error("it cannot be connected to: {0}")]
    Connect(io::Error),
    #[error("it does not answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    #[error("it answers with status {0}")]
    Status(u16),
    #[error("it does not speak HTTP: {0}")]
    Http(hyper::Error),
    #[error("no request can be made of the path: {0}")]
    Path(hyper::http::Error),
}

/// When is asked, and what the answers mean.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    delay: Duration,
    period: Duration,
    timeout: Duration,
    /// Both in a row.
    successes: u32,
    failures: u32,
}

impl From<&Probe> for Schedule {
    fn from(probe: &Probe) -> Self {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Self {
            delay: seconds(probe.initial_delay_seconds),
            period: seconds(probe.period_seconds),
            timeout: seconds(probe.timeout_seconds),
            successes: probe.success_threshold,
            failures: probe.failure_threshold,
        }
    }
}

/// Returns once the probe has passed as often in a row as it asks for.
///
/// # Errors
/// [`ProbeFailure`] once it has failed as often in a row as it allows.
pub async fn probe(probe: &Probe, ip: Ipv4Addr) -> Result<(), ProbeFailure> {
    let address = SocketAddr::from((ip, probe.port));
    ask(&probe.check, address, Schedule::from(probe)).await
}

async fn ask(check: &ProbeCheck, address: SocketAddr, schedule: Schedule) -> Result<(), ProbeFailure> {
    tokio::time::sleep(schedule.delay).await;
    let mut ticks = tokio::time::interval(schedule.period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut successes, mut failures) = (0, 0);
    loop {
        ticks.tick().await;
        let timeout = schedule.timeout;
        let answer = tokio::time::timeout(timeout, once(check, address)).await;
        match answer.unwrap_or(Err(CheckFailure::Timeout(timeout))) {
            Ok(()) => {
                (successes, failures) = (successes + 1, 0);
                if successes >= schedule.successes {
                    return Ok(());
                }
            }
            Err(last) => {
                (successes, failures) = (0, failures + 1);
                tracing::debug!(%address, %last, failures, "a readiness probe failed");
                if failures >= schedule.failures {
                    return Err(ProbeFailure {
                        what: name(check, address.port()),
                        failures,
                        last,
                    });
                }
            }
        }
    }
}

fn name(check: &ProbeCheck, port: u16) -> String {
    match check {
        ProbeCheck::Tcp => format!("tcp on port {port}"),
        ProbeCheck::Http { path } => format!("http GET {path} on port {port}"),
    }
}

async fn once(check: &ProbeCheck, address: SocketAddr) -> Result<(), CheckFailure> {
    let stream = TcpStream::connect(address).await.map_err(CheckFailure::Connect)?;
    match check {
        ProbeCheck::Tcp => Ok(()),
        ProbeCheck::Http { path } => match status(stream, address, path).await?.as_u16() {
            passes if PASSES.contains(&passes) => Ok(()),
            other => Err(CheckFailure::Status(other)),
        },
    }
}

async fn status(stream: TcpStream, address: SocketAddr, path: &str) -> Result<StatusCode, CheckFailure> {
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(String::new())
        .map_err(CheckFailure::Path)?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(CheckFailure::Http)?;
    // Drives the exchange; its end is told to the other branch, never by itself.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = sender.send_request(request) => answer.map(|a| a.status()).map_err(CheckFailure::Http),
        never = driven => match never {},
    }
}

#[cfg(test)]
mod tests;
