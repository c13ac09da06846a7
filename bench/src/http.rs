//! The moment when a port answers.

use crate::error::BenchError;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Between two attempts. No kernel tells when a port of another network begins to answer.
const PAUSE: Duration = Duration::from_millis(1);
/// Of one attempt: a first packet that is lost on the way is sent again by the kernel after a second only, which would be
/// measured in place of the port.
const ATTEMPT: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(30);
const REQUEST: &[u8] = b"GET / HTTP/1.0\r\nHost: bench\r\n\r\n";

/// Waits until a GET of `/` is answered with 200.
pub(crate) async fn first_ok(address: SocketAddr) -> Result<Instant, BenchError> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Ok(Ok(true)) = tokio::time::timeout(ATTEMPT, is_ok(address)).await {
            return Ok(Instant::now());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(BenchError::Timeout {
        what: format!("an answer of http://{address}/"),
        seconds: PATIENCE.as_secs(),
    })
}

async fn is_ok(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(REQUEST).await?;
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    Ok(line.starts_with(b"HTTP/1.") && line.ends_with(b" 200"))
}
