//! Starts a monitor, detached: it outlives who started it.

use super::watch::Monitor;
use super::{MonitorError, Nursery, files, socket, state};
use crate::blocking::blocking;
use proto::wire;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Specifications hold no secrets, but logs and runtimes' states may.
const FOLDER_MODE: u32 = 0o700;
const LOG_MODE: u32 = 0o600;

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Its own, `<sandbox>/monitor`; made where it is missing.
    pub dir: PathBuf,
    pub spec: wire::MonitorSpec,
    /// What it comes from.
    pub nursery: Arc<Nursery>,
}

impl Launch {
    /// The program that is running, also where its file was replaced since.
    #[must_use]
    pub fn this_program() -> PathBuf {
        PathBuf::from("/proc/self/exe")
    }
}

/// Starts the monitor, which creates and starts the containers by itself: what becomes of that is seen in
/// [`Monitor::state`]. The sandbox's cgroup, the bundles, and what they refer to must be there.
///
/// # Errors
/// [`MonitorError`]; nothing was started then. A folder is for one launch.
pub async fn launch(launch: Launch) -> Result<Monitor, MonitorError> {
    let Launch { dir, spec, nursery } = launch;
    let mut folder = DirBuilder::new();
    folder.recursive(true).mode(FOLDER_MODE);
    folder.create(&dir).map_err(|source| MonitorError::Folder {
        path: dir.clone(),
        source,
    })?;
    if files::spec(&dir).exists() {
        return Err(MonitorError::Launched { path: dir });
    }
    let path = files::socket(&dir);
    let listen = |source| MonitorError::Listen {
        path: path.clone(),
        source,
    };
    let listener = socket::listener(&path).map_err(listen)?;
    let log = open_log(&dir)?;
    files::write_spec(&dir, &spec)?;
    let of = dir.clone();
    let process = blocking(move || nursery.monitor(&of, &listener, &log)).await?;
    Monitor::connect(dir, state::starting(&spec), process)
}

fn open_log(dir: &Path) -> Result<File, MonitorError> {
    let path = files::log(dir);
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(LOG_MODE);
    options
        .open(&path)
        .map_err(|source| MonitorError::Log { path, source })
}
