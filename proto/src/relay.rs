//! The messages of a conversation between a user and something in a sandbox, as values that are quickly made. Called by
//! all three programs.

use crate::wire::{RelayEof, RelayExit, RelayInput, RelayOutput, relay_input, relay_output};

pub use relay_input::Input;
pub use relay_output::Output;

/// Bytes in one message at most: as much as a pipe holds, so that one read fills one message. A stream holds up to a
/// handful of messages in each process on its way.
pub const MAX_CHUNK: usize = 64 << 10;

impl From<Input> for RelayInput {
    fn from(input: Input) -> Self {
        Self { input: Some(input) }
    }
}

impl From<Output> for RelayOutput {
    fn from(output: Output) -> Self {
        Self { output: Some(output) }
    }
}

impl Input {
    /// No more data.
    #[must_use]
    pub fn eof() -> Self {
        Self::Eof(RelayEof {})
    }
}

impl Output {
    /// No more data.
    #[must_use]
    pub fn eof() -> Self {
        Self::Eof(RelayEof {})
    }

    /// It has ended by itself, or by a signal.
    #[must_use]
    pub fn exit(code: i32) -> Self {
        Self::Exit(RelayExit {
            code,
            message: String::new(),
        })
    }
}
