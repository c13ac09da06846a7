//! The agent's side of one monitor: hears its states and sends it commands. Owns the connection; decides
//! nothing. Dropping it leaves the monitor alone.

use super::{MonitorError, files, socket, state};
use crate::clock;
use crate::clock::BootTime;
use crate::runtime::sys::pidfd::PidFd;
use crate::runtime::sys::readable::readable;
use prost::Message;
use proto::wire::monitor_command::Command;
use proto::wire::monitor_notice::Notice;
use proto::wire::{self, MonitorPhase, MonitorState};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

/// A monitor answers at once, unless it is in the midst of creating or starting containers, which takes less.
const ANSWER: Duration = Duration::from_secs(30);
/// Commands that wait to be sent; a sandbox's task sends one at a time.
const COMMANDS: usize = 8;

/// A monitor as an agent knows it.
#[derive(Debug)]
pub struct Monitor {
    dir: PathBuf,
    state: watch::Receiver<MonitorState>,
    commands: mpsc::Sender<Order>,
}

/// A command and who waits for its answer.
#[derive(Debug)]
struct Order {
    command: Command,
    answer: oneshot::Sender<wire::MonitorAnswer>,
}

impl Monitor {
    /// What is known now, and every change; see [`MonitorPhase`]. After [`MonitorPhase::Ended`] and
    /// [`MonitorPhase::Lost`] nothing more comes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<MonitorState> {
        self.state.clone()
    }

    /// Waits until all containers were started, or the start has failed: until the phase is no longer
    /// [`MonitorPhase::Starting`].
    pub async fn started(&self) -> MonitorState {
        self.reached(|phase| phase != MonitorPhase::Starting).await
    }

    /// Waits for [`MonitorPhase::Ended`] or [`MonitorPhase::Lost`].
    pub async fn ended_or_lost(&self) -> MonitorState {
        self.reached(state::is_final).await
    }

    /// Ends all containers: SIGTERM, and after `grace` SIGKILL to those that are left. Returns once the monitor
    /// has begun. May be repeated with less grace. A monitor that has ended has stopped.
    ///
    /// # Errors
    /// [`MonitorError::Silent`].
    pub async fn stop(&self, grace: Duration) -> Result<(), MonitorError> {
        let grace_ms = clock::millis(grace);
        match self.command(Command::Stop(wire::MonitorStop { grace_ms })).await {
            Err(MonitorError::Ended { .. }) => Ok(()),
            done => done,
        }
    }

    /// Sends a signal, 1..=64, to the first process of a container, or of all with `None`.
    ///
    /// # Errors
    /// [`MonitorError::Refused`] where there is no such container or signal, or it does not run.
    pub async fn signal(&self, container: Option<&str>, number: i32) -> Result<(), MonitorError> {
        let container = container.unwrap_or_default().to_owned();
        self.command(Command::Signal(wire::MonitorSignal { container, number }))
            .await
    }

    /// Replaces the moment from which on the sandbox has expired; `None`: never.
    ///
    /// # Errors
    /// [`MonitorError::Ended`], [`MonitorError::Silent`].
    pub async fn expire_at(&self, moment: Option<BootTime>) -> Result<(), MonitorError> {
        let at_boot_ms = moment.map_or(0, |moment| moment.0);
        self.command(Command::Expiry(wire::MonitorExpiry { at_boot_ms }))
            .await
    }

    /// One that runs.
    pub(super) fn connect(dir: PathBuf, known: MonitorState, process: PidFd) -> Result<Self, MonitorError> {
        let path = files::socket(&dir);
        let connected = socket::connection(&path).and_then(UnixStream::from_std);
        let connection = match connected {
            Ok(connection) => Some(connection),
            // It is about to end, or has.
            Err(fault) if fault.kind() == io::ErrorKind::ConnectionRefused => None,
            Err(source) => return Err(MonitorError::Connect { path, source }),
        };
        let (sender, state) = watch::channel(known);
        let (commands, orders) = mpsc::channel(COMMANDS);
        let link = Link {
            dir: dir.clone(),
            connection,
            state: sender,
            last: None,
            waiting: BTreeMap::new(),
            next_id: 1,
        };
        tokio::spawn(link.run(orders, process.into()));
        Ok(Self { dir, state, commands })
    }

    /// One that has ended as it should.
    pub(super) fn ended(dir: &Path, last: MonitorState) -> Self {
        Self {
            dir: dir.to_owned(),
            state: watch::channel(last).1,
            commands: mpsc::channel(1).0,
        }
    }

    /// One that has gone.
    pub(super) fn lost(dir: &Path, known: MonitorState) -> Self {
        Self::ended(dir, state::lost(known, &files::last_words(&files::log(dir))))
    }

    async fn reached(&self, is_there: impl Fn(MonitorPhase) -> bool) -> MonitorState {
        let mut state = self.state.clone();
        // The other end is dropped only after a final state was set.
        match state.wait_for(|state| is_there(state.phase())).await {
            Ok(state) => state.clone(),
            Err(_) => self.state.borrow().clone(),
        }
    }

    async fn command(&self, command: Command) -> Result<(), MonitorError> {
        let ended = || MonitorError::Ended {
            path: self.dir.clone(),
        };
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            let order = Order { command, answer };
            self.commands.send(order).await.map_err(|_| ended())?;
            answered.await.map_err(|_| ended())
        };
        let answer = tokio::time::timeout(ANSWER, exchange).await;
        let answer = answer.map_err(|_| MonitorError::Silent {
            path: self.dir.clone(),
            seconds: ANSWER.as_secs(),
        })??;
        if answer.refused.is_empty() {
            return Ok(());
        }
        Err(MonitorError::Refused {
            path: self.dir.clone(),
            why: answer.refused,
        })
    }
}

/// The task behind a [`Monitor`], until either is gone.
struct Link {
    dir: PathBuf,
    /// `None`: the monitor has closed it, as it does right before its end.
    connection: Option<UnixStream>,
    state: watch::Sender<MonitorState>,
    last: Option<MonitorState>,
    waiting: BTreeMap<u64, oneshot::Sender<wire::MonitorAnswer>>,
    next_id: u64,
}

impl Link {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>, process: OwnedFd) {
        let mut end = std::pin::pin!(readable(process));
        loop {
            tokio::select! {
                // What it has said before its end is heard before its end: an answer to what has ended it, above all.
                biased;
                received = receive(self.connection.as_ref()) => match received {
                    Ok(packet) if !packet.is_empty() => self.take(&packet),
                    Ok(_) | Err(_) => self.disconnect(),
                },
                order = orders.recv() => match order {
                    Some(order) => self.send(order).await,
                    None => return,
                },
                ended = &mut end => {
                    if let Err(error) = ended {
                        tracing::warn!(%error, dir = %self.dir.display(), "cannot await the end of a monitor");
                    }
                    return self.finish();
                }
            }
        }
    }

    async fn send(&mut self, order: Order) {
        let Some(connection) = &self.connection else {
            // Nobody will answer: dropping the order says so.
            return;
        };
        let id = self.next_id;
        self.next_id += 1;
        let packet = wire::MonitorCommand {
            id,
            command: Some(order.command),
        }
        .encode_to_vec();
        match send(connection, &packet).await {
            Ok(()) => {
                self.waiting.insert(id, order.answer);
            }
            Err(_) => self.disconnect(),
        }
    }

    fn take(&mut self, packet: &[u8]) {
        let notice = match wire::MonitorNotice::decode(packet) {
            Ok(notice) => notice.notice,
            Err(error) => {
                tracing::warn!(%error, dir = %self.dir.display(), "a monitor said what is not understood");
                return;
            }
        };
        match notice {
            Some(Notice::State(state)) => self.know(state),
            Some(Notice::Answer(answer)) => {
                if let Some(waiting) = self.waiting.remove(&answer.id) {
                    // Who asked may have given up.
                    let _ = waiting.send(answer);
                }
            }
            // Of a guest, which has a connection of its own.
            Some(Notice::Ended(_)) | None => {}
        }
    }

    /// The last state is given out once the process has ended as well, so that its cgroup can be removed then.
    fn know(&mut self, state: MonitorState) {
        if state.phase() == MonitorPhase::Ended {
            self.last = Some(state);
            return;
        }
        self.state.send_if_modified(|known| {
            let is_newer = state.sequence > known.sequence;
            if is_newer {
                *known = state;
            }
            is_newer
        });
    }

    fn disconnect(&mut self) {
        self.connection = None;
        self.waiting.clear();
    }

    /// The process has ended: what it has left says how.
    fn finish(self) {
        let known = self.state.borrow().clone();
        if let Some(last) = self.last {
            self.state.send_replace(last);
            return;
        }
        let last = match files::read_state(&self.dir) {
            Ok(Some(last)) if last.phase() == MonitorPhase::Ended => last,
            Ok(last) => {
                let words = files::last_words(&files::log(&self.dir));
                state::lost(last.unwrap_or(known), &words)
            }
            Err(fault) => state::lost(known, &fault.to_string()),
        };
        self.state.send_replace(last);
    }
}

/// One packet; an empty one: the connection has ended. For ever without a connection.
async fn receive(connection: Option<&UnixStream>) -> io::Result<Vec<u8>> {
    match connection {
        Some(connection) => {
            let packet = || socket::packet(connection.as_fd());
            connection.async_io(Interest::READABLE, packet).await
        }
        None => std::future::pending().await,
    }
}

async fn send(connection: &UnixStream, packet: &[u8]) -> io::Result<()> {
    loop {
        connection.writable().await?;
        match connection.try_write(packet) {
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent.map(drop),
        }
    }
}
