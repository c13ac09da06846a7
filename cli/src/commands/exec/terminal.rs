//! The user's terminal while another one's keys and output go through it.

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use proto::wire::TerminalSize;
use std::io::{IsTerminal, stdin};
use terminal_size::{Height, Width, terminal_size_of};

/// Of a terminal that does not tell its own.
const USUAL: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

/// Keys come one by one and unchanged, until this is dropped: also where a panic unwinds.
pub(super) struct Raw(Termios);

impl Raw {
    /// # Errors
    /// Where stdin is no terminal.
    pub(super) fn enter() -> nix::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nobody could be told, and nothing else could be done.
        tcsetattr(stdin(), SetArg::TCSADRAIN, &self.0).ok();
    }
}

pub(super) fn is_there() -> bool {
    stdin().is_terminal()
}

pub(super) fn size() -> TerminalSize {
    match terminal_size_of(stdin()) {
        Some((Width(columns), Height(rows))) if columns > 0 && rows > 0 => TerminalSize {
            rows: rows.into(),
            columns: columns.into(),
        },
        Some(_) | None => USUAL,
    }
}
