//! The machine's `ip_forward`: on while local clusters are up, back as it was after the last one.

use super::DevError;
use super::network;
use super::plan::Plan;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::Path;

const SYSCTL: &str = "/proc/sys/net/ipv4/ip_forward";
/// Of the machine, like the setting itself: not moved by the variable that moves a cluster's own files.
const MACHINE_DIR: &str = "/run/sandboxd";
/// There while we have changed the setting.
const CHANGED: &str = "/run/sandboxd/ip-forward-was-off";

/// Turns it on. Called after the cluster's bridge was made, so that [`restore`] elsewhere sees it.
pub(super) fn enable() -> Result<(), DevError> {
    let _lock = lock()?;
    let setting = std::fs::read_to_string(SYSCTL).map_err(DevError::io("read", SYSCTL))?;
    if setting.trim() == "1" {
        return Ok(());
    }
    std::fs::create_dir_all(MACHINE_DIR).map_err(DevError::io("create", MACHINE_DIR))?;
    std::fs::write(CHANGED, "").map_err(DevError::io("write", CHANGED))?;
    std::fs::write(SYSCTL, "1").map_err(DevError::io("write", SYSCTL))
}

/// Turns it off again where we had turned it on and no other cluster needs it. Called after the cluster's
/// bridge was removed.
pub(super) async fn restore(plan: &Plan) -> Result<(), DevError> {
    let _lock = lock()?;
    if network::others_are_up(plan).await? || !Path::new(CHANGED).exists() {
        return Ok(());
    }
    std::fs::write(SYSCTL, "0").map_err(DevError::io("write", SYSCTL))?;
    std::fs::remove_file(CHANGED).map_err(DevError::io("remove", CHANGED))
}

/// The setting's own file is the lock: it is always there, and the same for all.
fn lock() -> Result<Flock<File>, DevError> {
    let file = File::open(SYSCTL).map_err(DevError::io("open", SYSCTL))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| DevError::io("lock", SYSCTL)(errno.into()))
}
