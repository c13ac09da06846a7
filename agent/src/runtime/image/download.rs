//! One blob on its way into a file. What has arrived stays where a transfer breaks, and the next one, from the same
//! place or another, goes on behind it; the digest is taken while it arrives and decides at the end.

use super::connection::{Connection, Request};
use super::digest::Digest;
use super::fault::{Fault, unreachable};
use super::manifest::Descriptor;
use super::progress::Meter;
use super::reference::Endpoint;
use oci_client::Reference;
use reqwest::{Response, StatusCode, header};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

pub(super) struct Download<'a> {
    wanted: &'a Descriptor,
    file: File,
    /// Of what is in the file.
    hasher: Sha256,
    received: u64,
    meter: &'a Meter,
}

impl<'a> Download<'a> {
    /// # Errors
    /// [`Fault::Disk`].
    pub(super) async fn new(wanted: &'a Descriptor, out: &Path, meter: &'a Meter) -> Result<Self, Fault> {
        Ok(Self {
            wanted,
            file: File::create(out).await.map_err(disk)?,
            hasher: Sha256::new(),
            received: 0,
            meter,
        })
    }

    /// Bytes in the file.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Gets what is missing. Where pieces do not fit together, all is got again, once.
    ///
    /// # Errors
    /// [`Fault`]; after one that is transient it can be called again.
    pub(super) async fn fetch(
        &mut self,
        connection: &Connection,
        endpoint: &Endpoint,
        asked: &Reference,
    ) -> Result<(), Fault> {
        let resumed = self.received > 0;
        match self.rest(connection, endpoint, asked).await {
            // Who sent the wrong piece can't be told; or this place does not know of pieces.
            Err(Fault::Digest { .. } | Fault::Range) if resumed => {
                self.restart().await?;
                self.rest(connection, endpoint, asked).await
            }
            done => done,
        }
    }

    async fn rest(
        &mut self,
        connection: &Connection,
        endpoint: &Endpoint,
        asked: &Reference,
    ) -> Result<(), Fault> {
        if self.received < self.wanted.size || self.wanted.size == 0 {
            let path = format!("blobs/{}", self.wanted.digest);
            let request = Request {
                path: &path,
                accept: None,
                from: self.received,
            };
            let answer = connection.get(endpoint, asked, request).await?;
            match answer.status() {
                StatusCode::PARTIAL_CONTENT if starts_at(&answer, self.received) => {}
                StatusCode::PARTIAL_CONTENT => return Err(Fault::Range),
                // All of it, whatever was asked for.
                _ => self.restart().await?,
            }
            self.take(answer).await?;
        }
        self.file.flush().await.map_err(disk)?;
        if Digest::from(self.hasher.clone()) == self.wanted.digest {
            Ok(())
        } else {
            Err(self.mismatch().await)
        }
    }

    async fn take(&mut self, mut answer: Response) -> Result<(), Fault> {
        loop {
            let chunk = match answer.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) if self.received < self.wanted.size => {
                    return Err(Fault::Unreachable("the transfer broke off".to_owned()));
                }
                Ok(None) => return Ok(()),
                Err(error) => return Err(unreachable(error)),
            };
            if chunk.len() as u64 > self.wanted.size - self.received {
                return Err(self.mismatch().await);
            }
            self.hasher.update(&chunk);
            self.file.write_all(&chunk).await.map_err(disk)?;
            self.received += chunk.len() as u64;
            self.meter.set(self.received);
        }
    }

    /// What has arrived is of no use to anybody.
    async fn mismatch(&mut self) -> Fault {
        let expected = self.wanted.digest.to_string();
        match self.restart().await {
            Ok(()) => Fault::Digest { expected },
            Err(fault) => fault,
        }
    }

    async fn restart(&mut self) -> Result<(), Fault> {
        self.file.flush().await.map_err(disk)?;
        self.file.set_len(0).await.map_err(disk)?;
        self.file.rewind().await.map_err(disk)?;
        self.hasher = Sha256::new();
        self.received = 0;
        self.meter.set(0);
        Ok(())
    }
}

/// Whether what is sent begins where it was asked to, by its own word: `bytes 100-199/200`.
fn starts_at(answer: &Response, from: u64) -> bool {
    let range = answer.headers().get(header::CONTENT_RANGE);
    range
        .and_then(|range| range.to_str().ok())
        .and_then(|range| range.strip_prefix("bytes "))
        .and_then(|range| range.split_once('-'))
        .is_some_and(|(start, _)| start.parse() == Ok(from))
}

fn disk(error: std::io::Error) -> Fault {
    Fault::Disk(error.to_string())
}
