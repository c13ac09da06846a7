//! Finds a monitor again that another agent has launched, or what it has left.

use super::watch::Monitor;
use super::{MonitorError, files, identity, state};
use crate::runtime::sys::readable::readable;
use proto::wire::MonitorPhase;
use std::path::Path;
use std::time::Duration;

/// A monitor writes its state right after it was started. It has none for longer where its agent died in the
/// very moment of starting it, or itself did.
const FIRST_STATE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Finds the monitor of the folder `dir`. `None`: none was launched there. One that has gone without having
/// ended is in [`MonitorPhase::Lost`]: its containers may still run.
///
/// # Errors
/// [`MonitorError`] where its files can't be read, or it lives and can't be spoken to.
pub async fn attach(dir: &Path) -> Result<Option<Monitor>, MonitorError> {
    let Some(spec) = files::read_spec(dir)? else {
        return Ok(None);
    };
    let mut waited = Duration::ZERO;
    let known = loop {
        match files::read_state(dir)? {
            Some(known) => break known,
            None if waited < FIRST_STATE => {
                tokio::time::sleep(LOOK_AGAIN).await;
                waited += LOOK_AGAIN;
            }
            None => return Ok(Some(Monitor::lost(dir, state::starting(&spec)))),
        }
    };
    let process = known.process.clone().unwrap_or_default();
    let watch = |source| MonitorError::Watch {
        pid: process.pid,
        source,
    };
    match identity::find(&process).map_err(watch)? {
        Some(ending) if known.phase() == MonitorPhase::Ended => {
            // Nothing is left to do for it but to exit.
            readable(ending.into()).await.map_err(watch)?;
            Ok(Some(Monitor::ended(dir, known)))
        }
        Some(running) => Monitor::connect(dir.to_owned(), known, running).map(Some),
        // It may have ended since its state was read.
        None => match files::read_state(dir)? {
            Some(last) if last.phase() == MonitorPhase::Ended => Ok(Some(Monitor::ended(dir, last))),
            Some(_) | None => Ok(Some(Monitor::lost(dir, known))),
        },
    }
}
