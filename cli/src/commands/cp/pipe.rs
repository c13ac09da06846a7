//! Between a conversation, which is async, and an archive, which is read and written by a thread that may block.

use std::io::{self, Read, Write};
use tokio::sync::mpsc;

/// Chunks that the slower side may be behind.
const AHEAD: usize = 4;

/// A pipe for what is written by a thread.
pub(super) fn from_thread(chunk: usize) -> (ChunkWriter, mpsc::Receiver<Vec<u8>>) {
    let (chunks, receiver) = mpsc::channel(AHEAD);
    let writer = ChunkWriter {
        chunks,
        chunk,
        gathered: Vec::with_capacity(chunk),
    };
    (writer, receiver)
}

/// A pipe for what is read by a thread. Its end is told with `Ok(empty)`; a sender that is dropped before has broken off.
pub(super) fn to_thread() -> (mpsc::Sender<Vec<u8>>, ChunkReader) {
    let (sender, chunks) = mpsc::channel(AHEAD);
    let reader = ChunkReader {
        chunks,
        current: Vec::new(),
        position: 0,
        is_over: false,
    };
    (sender, reader)
}

/// Gathers what is written into chunks. The last one goes with `flush`.
#[derive(Debug)]
pub(super) struct ChunkWriter {
    chunks: mpsc::Sender<Vec<u8>>,
    chunk: usize,
    gathered: Vec<u8>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(self.chunk - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..length]);
        if self.gathered.len() == self.chunk {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.gathered, Vec::with_capacity(self.chunk));
        self.chunks
            .blocking_send(chunk)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[derive(Debug)]
pub(super) struct ChunkReader {
    chunks: mpsc::Receiver<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    is_over: bool,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.current.len() && !self.is_over {
            self.position = 0;
            self.current = self
                .chunks
                .blocking_recv()
                .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            self.is_over = self.current.is_empty();
        }
        let rest = &self.current[self.position..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.position += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_thread_writes_comes_in_chunks() {
        let (mut writer, mut chunks) = from_thread(4);
        let writing = tokio::task::spawn_blocking(move || {
            writer.write_all(b"hello").expect("taken");
            writer.write_all(b", you").expect("taken");
            writer.flush().expect("taken");
        });
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.push(chunk);
        }
        writing.await.expect("written");
        assert_eq!(all, [&b"hell"[..], b"o, y", b"ou"]);
    }

    #[tokio::test]
    async fn what_a_thread_reads_has_an_end_or_is_broken_off() {
        for (end, want) in [
            (Some(Vec::new()), Ok(5)),
            (None, Err(io::ErrorKind::UnexpectedEof)),
        ] {
            let (chunks, mut reader) = to_thread();
            let reading = tokio::task::spawn_blocking(move || {
                let mut text = Vec::new();
                reader.read_to_end(&mut text).map_err(|error| error.kind())
            });
            for chunk in [&b"he"[..], b"llo"].map(<[u8]>::to_vec).into_iter().chain(end) {
                chunks.send(chunk).await.expect("taken");
            }
            drop(chunks);
            assert_eq!(reading.await.expect("read"), want);
        }
    }
}
