//! The agent's side of a copy.

use super::{Direction, Task};
use std::io;
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

/// What the process says of its failure; longer words are cut.
const MAX_WORDS: u64 = 4 << 10;

/// A copy that is going on. Dropped, it is killed.
#[derive(Debug)]
pub struct Copy {
    child: Child,
    words: ChildStderr,
}

/// Why a copy did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CopyFault {
    #[error("cannot start the copy: {0}")]
    Start(io::Error),
    #[error("cannot await the end of the copy: {0}")]
    Wait(io::Error),
    /// In the process' own words.
    #[error("{0}")]
    Failed(String),
    /// By a signal, as of the end of the sandbox or for want of its memory.
    #[error("the copy was ended together with the sandbox, or for want of memory in it")]
    Killed,
}

/// Starts it: what goes in is written to the first pipe, and closing that is its end; what comes out is read from the
/// second.
///
/// # Errors
/// [`CopyFault::Start`]
pub fn launch(program: &Path, task: &Task) -> Result<(Copy, ChildStdin, ChildStdout), CopyFault> {
    let direction = match task.direction {
        Direction::In => "in",
        Direction::Out => "out",
    };
    let mut child = Command::new(program)
        .arg0("sbxlet")
        .arg("copy")
        .arg("--monitor")
        .arg(&task.monitor)
        .arg(format!("--container={}", task.container))
        .arg(format!("--direction={direction}"))
        .arg("--path")
        .arg(&task.path)
        .current_dir("/")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(CopyFault::Start)?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    match pipes {
        (Some(stdin), Some(stdout), Some(words)) => Ok((Copy { child, words }, stdin, stdout)),
        _ => Err(CopyFault::Start(io::ErrorKind::BrokenPipe.into())),
    }
}

impl Copy {
    /// Returns once it has ended; with success, all was copied. Its pipes are to be read and written meanwhile.
    ///
    /// # Errors
    /// [`CopyFault`]
    pub async fn ended(mut self) -> Result<(), CopyFault> {
        let mut words = String::new();
        // Words that can't be read are none; more than these would be of no use.
        let told = (&mut self.words).take(MAX_WORDS);
        tokio::pin!(told);
        told.read_to_string(&mut words).await.ok();
        let status = self.child.wait().await.map_err(CopyFault::Wait)?;
        match status.code() {
            Some(0) => Ok(()),
            Some(_) => Err(CopyFault::Failed(words.trim_end().to_owned())),
            None => Err(CopyFault::Killed),
        }
    }
}
