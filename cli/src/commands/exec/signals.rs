//! What this program is sent while a command runs elsewhere: it is passed on, as if the command ran here.

use super::terminal;
use crate::client::Says;
use crate::failure::Failure;
use proto::relay::Input;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// So many times Ctrl-C end this program, whether the command takes notice or not.
const PATIENCE: u32 = 3;

/// Nothing that it listens to ends this program by itself any more.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
    resized: Signal,
    has_terminal: bool,
}

impl Signals {
    pub(super) fn listen(has_terminal: bool) -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(Failure::Signals);
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
            user1: listen(SignalKind::user_defined1())?,
            user2: listen(SignalKind::user_defined2())?,
            resized: listen(SignalKind::window_change())?,
            has_terminal,
        })
    }

    /// Until this program has to end itself; gives its exit code. With a terminal, whose keys are passed on as such,
    /// signals are for this program.
    pub(super) async fn pass_on(&mut self, says: &Says) -> u8 {
        let mut interrupts = 0;
        loop {
            let number = tokio::select! {
                _ = self.resized.recv() => {
                    if self.has_terminal {
                        says.say(Input::Resize(terminal::size())).await;
                    }
                    continue;
                }
                _ = self.interrupt.recv() => libc::SIGINT,
                _ = self.terminate.recv() => libc::SIGTERM,
                _ = self.hangup.recv() => libc::SIGHUP,
                _ = self.quit.recv() => libc::SIGQUIT,
                _ = self.user1.recv() => libc::SIGUSR1,
                _ = self.user2.recv() => libc::SIGUSR2,
            };
            interrupts += u32::from(number == libc::SIGINT);
            if self.has_terminal || interrupts >= PATIENCE {
                return u8::try_from(128 + number).unwrap_or(u8::MAX);
            }
            says.say(Input::Signal(number)).await;
        }
    }
}
