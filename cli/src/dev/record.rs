//! What is written about a cluster: `cluster.json` in its folder, and the pointer by which `sbxctl` finds the
//! newest one. Each file is replaced as a whole.

use super::DevError;
use super::plan::{Member, Plan};
use super::process::Identity;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

pub(super) const DEFAULT_DIR: &str = "/var/lib/sandboxd/dev";
/// Overrides the folder of the pointer, for tests that must not see each other.
const RUN_DIR_VARIABLE: &str = "SBX_RUN_DIR";
const DEFAULT_RUN_DIR: &str = "/run/sandboxd";
const POINTER: &str = "dev-cluster";
const RECORD: &str = "cluster.json";
const LOCK: &str = "lock";

/// All that later commands need to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    plan: Plan,
    /// By member's name; absent: not started, or ended by `dev kill`.
    pub(super) processes: BTreeMap<String, Identity>,
    /// By member's name: whom it is cut off from.
    pub(super) cuts: BTreeMap<String, Vec<String>>,
    /// Taken down with its data kept.
    pub(super) down: bool,
}

impl Record {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            plan,
            processes: BTreeMap::new(),
            cuts: BTreeMap::new(),
            down: false,
        }
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// One more replica, from now on; `None` where there is no address left for it.
    pub(super) fn join_replica(&mut self) -> Option<Member> {
        self.plan.join_replica()
    }

    pub(super) fn exists(dir: &Path) -> bool {
        dir.join(RECORD).exists()
    }

    pub(super) fn load(dir: &Path) -> Result<Self, DevError> {
        let path = dir.join(RECORD);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(DevError::NoCluster { looked: path });
            }
            Err(source) => return Err(DevError::io("read", path)(source)),
        };
        serde_json::from_slice(&text).map_err(|source| DevError::Malformed { path, source })
    }

    pub(super) fn save(&self) -> Result<(), DevError> {
        let path = self.plan.dir.join(RECORD);
        let text = serde_json::to_vec_pretty(self).map_err(|source| DevError::Malformed {
            path: path.clone(),
            source,
        })?;
        replace(&path, &text)
    }

    /// The member of this name.
    pub(super) fn member(&self, name: &str) -> Result<Member, DevError> {
        let members = self.plan.members();
        let known: Vec<String> = members.iter().map(|m| m.name.clone()).collect();
        members
            .into_iter()
            .find(|m| m.name == name)
            .ok_or_else(|| DevError::UnknownMember {
                name: name.to_owned(),
                known: known.join(", "),
            })
    }
}

fn replace(path: &Path, text: &[u8]) -> Result<(), DevError> {
    let new = path.with_extension("new");
    std::fs::write(&new, text).map_err(DevError::io("write", &new))?;
    std::fs::rename(&new, path).map_err(DevError::io("replace", path))
}

/// Commands that change a cluster run one after another.
pub(super) fn lock(dir: &Path) -> Result<Flock<File>, DevError> {
    let path = dir.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => DevError::NoCluster {
                looked: dir.join(RECORD),
            },
            _ => DevError::io("open", &path)(source),
        })?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| DevError::io("lock", path)(errno.into()))
}

/// Whether nothing but our own lock is in the folder.
pub(super) fn is_empty(dir: &Path) -> Result<bool, DevError> {
    let entries = std::fs::read_dir(dir).map_err(DevError::io("read", dir))?;
    for entry in entries {
        if entry.map_err(DevError::io("read", dir))?.file_name() != LOCK {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The folder of the cluster that a command is about: the one that was named, else the newest, else the
/// default one.
pub(super) fn find(named: Option<&Path>) -> Result<PathBuf, DevError> {
    if let Some(dir) = named {
        return absolute(dir);
    }
    match pointed()? {
        Some(dir) => Ok(dir),
        None if Record::exists(Path::new(DEFAULT_DIR)) => Ok(DEFAULT_DIR.into()),
        None => Err(DevError::NoCluster { looked: pointer() }),
    }
}

/// As the kernel names it in its list of mounts; a folder that is not there has no such name yet.
pub(super) fn absolute(dir: &Path) -> Result<PathBuf, DevError> {
    match std::fs::canonicalize(dir) {
        Ok(dir) => Ok(dir),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::path::absolute(dir).map_err(DevError::io("find", dir))
        }
        Err(source) => Err(DevError::io("find", dir)(source)),
    }
}

fn run_dir() -> PathBuf {
    std::env::var_os(RUN_DIR_VARIABLE).map_or_else(|| DEFAULT_RUN_DIR.into(), PathBuf::from)
}

fn pointer() -> PathBuf {
    run_dir().join(POINTER)
}

/// The folder that the pointer names; `None` where there is no pointer, or its cluster is gone.
pub(super) fn pointed() -> Result<Option<PathBuf>, DevError> {
    let path = pointer();
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let dir = PathBuf::from(text.trim_end());
            Ok(Record::exists(&dir).then_some(dir))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DevError::io("read", path)(source)),
    }
}

/// Makes this cluster the one that `sbxctl` finds.
pub(super) fn point_at(dir: &Path) -> Result<(), DevError> {
    let run_dir = run_dir();
    std::fs::create_dir_all(&run_dir).map_err(DevError::io("create", &run_dir))?;
    replace(&pointer(), format!("{}\n", dir.display()).as_bytes())
}

/// Removes the pointer where it names this cluster.
pub(super) fn unpoint(dir: &Path) -> Result<(), DevError> {
    let path = pointer();
    match std::fs::read_to_string(&path) {
        Ok(text) if Path::new(text.trim_end()) == dir => {
            std::fs::remove_file(&path).map_err(DevError::io("remove", &path))
        }
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(DevError::io("read", path)(source)),
    }
}
