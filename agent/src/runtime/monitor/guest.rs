//! The agent's side of a guest of a sandbox: a process that was started beside a container's program, or somebody who
//! sees what a container writes. Each has a connection of its own to the monitor, whose end is the guest's.

use super::{MonitorError, files, socket};
use prost::Message;
use proto::wire::monitor_command::Command;
use proto::wire::monitor_notice::Notice;
use proto::wire::{self, MonitorGuestEnded};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A monitor answers at once, unless it is in the midst of creating or starting containers, which takes less.
const ANSWER: Duration = Duration::from_secs(30);

/// Dropped, it ends: a process gets SIGHUP and, after a grace, SIGKILL.
#[derive(Debug)]
pub struct Guest {
    dir: PathBuf,
    connection: UnixStream,
    next_id: u64,
}

/// How it has ended.
pub type GuestEnd = MonitorGuestEnded;

/// Starts a process in a container that runs. `streams` are its standard streams, three where it has no terminal. Returns
/// once it is accepted; whether it could be started is told at its end.
///
/// # Errors
/// [`MonitorError`], with `Refused` where the container does not run.
pub async fn exec(
    dir: &Path,
    order: wire::MonitorExec,
    streams: &[BorrowedFd<'_>],
) -> Result<Guest, MonitorError> {
    let mut guest = Guest::connect(dir)?;
    guest.command(Command::Exec(order), streams).await?;
    Ok(guest)
}

/// Has what a container writes from now on copied to two streams, for stdout and stderr.
///
/// # Errors
/// As of [`exec`].
pub async fn attach_to(
    dir: &Path,
    container: &str,
    streams: [BorrowedFd<'_>; 2],
) -> Result<Guest, MonitorError> {
    let mut guest = Guest::connect(dir)?;
    let container = container.to_owned();
    let order = Command::Attach(wire::MonitorAttach { container });
    guest.command(order, &streams).await?;
    Ok(guest)
}

impl Guest {
    fn connect(dir: &Path) -> Result<Self, MonitorError> {
        let path = files::socket(dir);
        let connected = socket::connection(&path).and_then(UnixStream::from_std);
        let connection = connected.map_err(|source| match source.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                MonitorError::Ended { path: dir.to_owned() }
            }
            _ => MonitorError::Connect { path, source },
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            connection,
            next_id: 1,
        })
    }

    /// Returns when it has ended; nothing else can be done meanwhile but to give up waiting. Cancel safe.
    ///
    /// # Errors
    /// [`MonitorError::Ended`] where the monitor has gone.
    pub async fn ended(&mut self) -> Result<GuestEnd, MonitorError> {
        loop {
            match self.notice().await? {
                Some(Notice::Ended(ended)) => return Ok(ended),
                // That of a signal, which nobody waits for.
                Some(Notice::Answer(_)) | Some(Notice::State(_)) | None => {}
            }
        }
    }

    /// Signals a process and its group. Whether it runs is not told.
    ///
    /// # Errors
    /// [`MonitorError::Ended`]
    pub async fn signal(&mut self, number: i32) -> Result<(), MonitorError> {
        let command = Command::ExecSignal(wire::MonitorExecSignal { number });
        self.send(command, &[]).await
    }

    async fn command(&mut self, command: Command, streams: &[BorrowedFd<'_>]) -> Result<(), MonitorError> {
        let exchange = async {
            self.send(command, streams).await?;
            loop {
                if let Some(Notice::Answer(answer)) = self.notice().await? {
                    return Ok(answer.refused);
                }
            }
        };
        let refused = timeout(ANSWER, exchange).await;
        let refused = refused.unwrap_or_else(|_| {
            Err(MonitorError::Silent {
                path: self.dir.clone(),
                seconds: ANSWER.as_secs(),
            })
        })?;
        if refused.is_empty() {
            return Ok(());
        }
        Err(MonitorError::Refused {
            path: self.dir.clone(),
            why: refused,
        })
    }

    async fn send(&mut self, command: Command, streams: &[BorrowedFd<'_>]) -> Result<(), MonitorError> {
        let id = self.next_id;
        self.next_id += 1;
        let command = Some(command);
        let packet = wire::MonitorCommand { id, command }.encode_to_vec();
        let sent = self.connection.async_io(Interest::WRITABLE, || {
            socket::send(self.connection.as_fd(), &packet, streams)
        });
        sent.await.map_err(|_| self.gone())
    }

    async fn notice(&mut self) -> Result<Option<Notice>, MonitorError> {
        let connection = &self.connection;
        let received = connection.async_io(Interest::READABLE, || socket::packet(connection.as_fd()));
        match received.await {
            Ok(packet) if !packet.is_empty() => Ok(wire::MonitorNotice::decode(&*packet)
                // What is not understood is of a newer monitor.
                .ok()
                .and_then(|notice| notice.notice)),
            Ok(_) | Err(_) => Err(self.gone()),
        }
    }

    fn gone(&self) -> MonitorError {
        MonitorError::Ended {
            path: self.dir.clone(),
        }
    }
}
