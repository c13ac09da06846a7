//! A registry that breaks transfers on purpose: serves one built image over HTTP/1.1, and treats requests for blobs as it
//! is told.

use super::*;
use std::collections::VecDeque;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// What becomes of one request for a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Sends so many bytes of what was asked for, then closes.
    Cut(usize),
    /// Sends all, from the beginning, whatever was asked for.
    Whole,
    /// Says and sends another range than it was asked for.
    OtherRange,
    /// Says the right range, and sends other bytes.
    OtherBytes,
    /// Sends more than there is.
    TooMuch,
    /// Knows of no ranges.
    NoRange,
    /// HTTP status 503.
    Busy,
}

pub(super) struct Breaking {
    pub(super) port: u16,
    seen: Arc<Mutex<Seen>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// For the next requests for the largest blob; when there is none left, all goes well.
    acts: VecDeque<Act>,
    /// The first byte asked for, of each request for the largest blob.
    starts: Vec<usize>,
    manifests: usize,
}

impl Breaking {
    pub(super) async fn start(built: Built, acts: &[Act]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Mutex::new(Seen {
            acts: acts.iter().copied().collect(),
            ..Seen::default()
        }));
        let (built, shared) = (Arc::new(built), seen.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (built, seen) = (built.clone(), shared.clone());
                // A client that goes away is no fault.
                tokio::spawn(async move { serve(stream, &built, &seen).await.ok() });
            }
        });
        Self {
            port,
            seen,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(super) fn name(&self) -> String {
        format!("127.0.0.1:{}/team/app:1", self.port)
    }

    pub(super) fn starts(&self) -> Vec<usize> {
        self.seen.lock().expect("not poisoned").starts.clone()
    }

    pub(super) fn manifests(&self) -> usize {
        self.seen.lock().expect("not poisoned").manifests
    }
}

async fn serve(stream: TcpStream, built: &Built, seen: &Mutex<Seen>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request).await?;
    let mut start = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
            start = range.trim().trim_end_matches('-').parse().expect("a range");
        }
    }
    let path = request.split(' ').nth(1).expect("a path");
    if path == "/v2/" {
        return answer(&mut stream, "200 OK", "", b"").await;
    }
    if path.contains("/manifests/") {
        seen.lock().expect("not poisoned").manifests += 1;
        return answer(&mut stream, "200 OK", "", &built.manifest.bytes).await;
    }
    let blobs = || built.layers.iter().chain([&built.config]);
    let blob = blobs()
        .find(|b| path.ends_with(&b.digest))
        .expect("a blob of the image");
    let largest = blobs().max_by_key(|b| b.bytes.len()).expect("a blob");
    let mut act = None;
    if blob.digest == largest.digest {
        let mut seen = seen.lock().expect("not poisoned");
        seen.starts.push(start);
        act = seen.acts.pop_front();
    }
    let all = &blob.bytes;
    let range = |from: usize| format!("content-range: bytes {from}-{}/{}\r\n", all.len() - 1, all.len());
    let partial = "206 Partial Content";
    match act {
        None if start == 0 => answer(&mut stream, "200 OK", "", all).await,
        None => answer(&mut stream, partial, &range(start), &all[start..]).await,
        Some(Act::Whole) => answer(&mut stream, "200 OK", "", all).await,
        Some(Act::Busy) => answer(&mut stream, "503 Service Unavailable", "", b"").await,
        Some(Act::NoRange) if start == 0 => answer(&mut stream, "200 OK", "", all).await,
        Some(Act::NoRange) => answer(&mut stream, "416 Range Not Satisfiable", "", b"").await,
        Some(Act::OtherRange) => answer(&mut stream, partial, &range(start / 2), &all[start / 2..]).await,
        Some(Act::OtherBytes) => {
            let other = vec![b'x'; all.len() - start];
            if start == 0 {
                return answer(&mut stream, "200 OK", "", &other).await;
            }
            answer(&mut stream, partial, &range(start), &other).await
        }
        Some(Act::TooMuch) => answer(&mut stream, "200 OK", "", &[&all[..], b"more"].concat()).await,
        Some(Act::Cut(length)) => {
            let status = if start == 0 { "200 OK" } else { partial };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{}\r\n",
                all.len() - start,
                if start == 0 { String::new() } else { range(start) }
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&all[start..start + length]).await?;
            stream.flush().await
        }
    }
}

async fn answer(
    stream: &mut BufReader<TcpStream>,
    status: &str,
    headers: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await
}
