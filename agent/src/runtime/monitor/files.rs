//! The files in a monitor's folder: their names and forms, for both sides.
//!
//! | name | written by | is |
//! |---|---|---|
//! | `spec` | the agent, once | what shall run |
//! | `state` | the monitor, at each change | what has become of it |
//! | `socket` | the agent, once | where the monitor can be spoken to while it lives |
//! | `log` | the monitor | what it has to say to a person |
//! | `runtime.log` | the OCI runtime | why it has failed, if it has |
//! | `runtime/` | the OCI runtime | its own state; gone once the containers have ended |

use crate::sealed::{self, Durability, SealedError};
use proto::wire::{MonitorSpec, MonitorState};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const SPEC: [u8; 4] = *b"SBMS";
const STATE: [u8; 4] = *b"SBMT";
/// What is read of a log for the sake of its last lines.
const TAIL: u64 = 2 << 10;

pub(super) fn socket(dir: &Path) -> PathBuf {
    dir.join("socket")
}

pub(super) fn log(dir: &Path) -> PathBuf {
    dir.join("log")
}

pub(super) fn runtime_log(dir: &Path) -> PathBuf {
    dir.join("runtime.log")
}

pub(super) fn runtime(dir: &Path) -> PathBuf {
    dir.join("runtime")
}

pub(super) fn spec(dir: &Path) -> PathBuf {
    dir.join("spec")
}

/// Outlives the agent, not the machine: nothing of a sandbox does.
pub(super) fn write_spec(dir: &Path, message: &MonitorSpec) -> Result<(), SealedError> {
    sealed::write(&spec(dir), SPEC, message, Durability::Process)
}

pub(crate) fn read_spec(dir: &Path) -> Result<Option<MonitorSpec>, SealedError> {
    sealed::read(&spec(dir), SPEC)
}

pub(super) fn write_state(dir: &Path, message: &MonitorState) -> Result<(), SealedError> {
    sealed::write(&dir.join("state"), STATE, message, Durability::Process)
}

pub(super) fn read_state(dir: &Path) -> Result<Option<MonitorState>, SealedError> {
    sealed::read(&dir.join("state"), STATE)
}

/// The last lines of a log as one; empty where there are none. For messages: what can't be read is not there.
pub(super) fn last_words(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let lines: Vec<String> = String::from_utf8_lossy(&bytes)
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    let last = lines.len().saturating_sub(3);
    lines[last..].join("; ")
}
