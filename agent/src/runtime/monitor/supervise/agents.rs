//! The agents that listen: one, for a moment its successor, and a connection for each of their guests: processes beside
//! containers' programs, and those who see what containers write. None can hold the monitor up: an agent that
//! does not read gets the newest state once it does.

use super::{MAX_GUESTS, say};
use crate::runtime::monitor::socket::{MAX_COMMAND, MAX_PACKET, receive};
use prost::Message;
use proto::wire::monitor_notice::Notice;
use proto::wire::{MonitorAnswer, MonitorCommand, MonitorGuestEnded, MonitorNotice, MonitorState};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// Connections at a time; further ones wait to be accepted. Those of guests, and some for agents in turn.
const MAX_AGENTS: usize = MAX_GUESTS + 8;

pub(super) struct Agents {
    listener: UnixListener,
    connected: Vec<Agent>,
    next_id: u64,
    /// Whose connections have ended.
    left: Vec<u64>,
}

struct Agent {
    id: u64,
    stream: UnixStream,
    /// Has not been sent the newest state.
    is_behind: bool,
    /// Its last command's; no other is read before it is sent.
    answer: Option<MonitorAnswer>,
    /// Its guest has ended.
    ended: Option<MonitorGuestEnded>,
    is_gone: bool,
}

impl Agents {
    /// # Errors
    /// Where the socket can't be made not to block.
    pub(super) fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            connected: Vec::new(),
            next_id: 1,
            left: Vec::new(),
        })
    }

    /// What to wait for, as to reading and to writing.
    pub(super) fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool, bool)> {
        let accepts = self.connected.len() < MAX_AGENTS;
        let agents = self.connected.iter().map(|agent| {
            let writes = agent.is_behind || agent.answer.is_some() || agent.ended.is_some();
            (agent.stream.as_fd(), agent.answer.is_none(), writes)
        });
        std::iter::once((self.listener.as_fd(), accepts, false)).chain(agents)
    }

    /// There is a newer state.
    pub(super) fn outdate(&mut self) {
        for agent in &mut self.connected {
            agent.is_behind = true;
        }
    }

    pub(super) fn accept(&mut self) {
        while self.connected.len() < MAX_AGENTS {
            let accepted = self.listener.accept();
            match accepted.and_then(|(stream, _)| stream.set_nonblocking(true).map(|()| stream)) {
                Ok(stream) => {
                    self.connected.push(Agent {
                        id: self.next_id,
                        stream,
                        is_behind: true,
                        answer: None,
                        ended: None,
                        is_gone: false,
                    });
                    self.next_id += 1;
                }
                Err(fault) => {
                    if fault.kind() != io::ErrorKind::WouldBlock {
                        say(format_args!("cannot accept an agent's connection: {fault}"));
                    }
                    return;
                }
            }
        }
    }

    /// Carries out what agents command; `obey` is given the connection and what came along, and says why not where it
    /// refuses.
    pub(super) fn listen(
        &mut self,
        mut obey: impl FnMut(u64, MonitorCommand, Vec<OwnedFd>) -> Result<(), String>,
    ) {
        let mut buffer = vec![0; MAX_COMMAND];
        for agent in &mut self.connected {
            while agent.answer.is_none() && !agent.is_gone {
                let read = match receive(agent.stream.as_fd(), &mut buffer) {
                    Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
                    read => read,
                };
                match read {
                    Ok((length, streams)) => {
                        let command = MonitorCommand::decode(&buffer[..length]);
                        let id = command.as_ref().map_or(0, |command| command.id);
                        let command = command.map_err(|e| e.to_string());
                        let obeyed = command.and_then(|command| obey(agent.id, command, streams));
                        let refused = obeyed.err().unwrap_or_default();
                        agent.answer = Some(MonitorAnswer { id, refused });
                    }
                    Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => agent.is_gone = true,
                }
            }
        }
        self.forget();
    }

    /// Sends what can be sent. A state goes before the answer that it is the effect of.
    pub(super) fn tell(&mut self, state: &MonitorState) {
        let is_needed = self.connected.iter().any(|agent| agent.is_behind);
        let packet = if is_needed {
            packet(Notice::State(state.clone()))
        } else {
            Vec::new()
        };
        for agent in &mut self.connected {
            if agent.is_behind {
                agent.is_behind = !agent.send(&packet);
            }
            if !agent.is_behind
                && let Some(answer) = agent.answer.take()
                && !agent.send(&packet_of(&answer))
            {
                agent.answer = Some(answer);
            }
            if agent.answer.is_none()
                && let Some(ended) = agent.ended.take()
                && !agent.send(&packet_of_end(&ended))
            {
                agent.ended = Some(ended);
            }
        }
        self.forget();
    }

    /// The guest of that connection has ended.
    pub(super) fn ended(&mut self, id: u64, how: MonitorGuestEnded) {
        if let Some(agent) = self.connected.iter_mut().find(|agent| agent.id == id) {
            agent.ended = Some(how);
        }
    }

    /// Whose connections have ended since this was asked last.
    pub(super) fn take_left(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.left)
    }

    fn forget(&mut self) {
        let gone = self.connected.iter().filter(|agent| agent.is_gone);
        self.left.extend(gone.map(|agent| agent.id));
        self.connected.retain(|agent| !agent.is_gone);
    }
}

impl Agent {
    /// False: not yet, or never.
    fn send(&mut self, packet: &[u8]) -> bool {
        match self.stream.write(packet) {
            Ok(_) => true,
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => false,
            Err(fault) => {
                if packet.len() > MAX_PACKET {
                    say(format_args!(
                        "cannot tell an agent: {fault} ({} bytes)",
                        packet.len()
                    ));
                }
                self.is_gone = true;
                false
            }
        }
    }
}

fn packet_of(answer: &MonitorAnswer) -> Vec<u8> {
    packet(Notice::Answer(answer.clone()))
}

fn packet_of_end(ended: &MonitorGuestEnded) -> Vec<u8> {
    packet(Notice::Ended(ended.clone()))
}

fn packet(notice: Notice) -> Vec<u8> {
    MonitorNotice { notice: Some(notice) }.encode_to_vec()
}
