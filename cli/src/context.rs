//! Which cluster a command is about, and how it proves that it may: its replicas, its certificate authority, the token.
//! What the command line names goes first, then a file, `context.toml`, which `cluster init` and the local cluster write;
//! the local cluster that is up goes before the file in the user's own folder. Called by `invocation`.

use crate::args::Global;
use crate::client::Access;
use crate::dev;
use crate::failure::Failure;
use identity::folder::{self, FolderError};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

pub const FILE: &str = "context.toml";
/// Below the user's folder for configurations.
const USER_FOLDER: &str = "sandboxd";

/// What a context file says. Paths are relative to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The replicas, in the order in which they are tried.
    pub servers: Vec<String>,
    /// The file of the certificate authority.
    pub ca: Option<PathBuf>,
    /// The file of the token.
    pub token: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error(transparent)]
    File(#[from] FolderError),
    #[error("{} is not valid: {source}", path.display())]
    Parse {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error("cannot write a context: {0}")]
    Print(#[from] toml::ser::Error),
}

impl File {
    /// Of a cluster whose other files are beside it.
    #[must_use]
    pub fn of_cluster(servers: &[String]) -> Self {
        Self {
            servers: servers.to_vec(),
            ca: Some(folder::AUTHORITY.into()),
            token: Some(crate::provision::TOKEN.into()),
        }
    }

    /// # Errors
    /// [`ContextError`]
    pub fn read(path: &Path) -> Result<Self, ContextError> {
        let text = folder::read(path)?;
        let mut file: Self = toml::from_str(&text).map_err(|source| ContextError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let beside = path.parent().unwrap_or(Path::new("."));
        for path in [&mut file.ca, &mut file.token].into_iter().flatten() {
            *path = beside.join(&*path);
        }
        Ok(file)
    }

    /// # Errors
    /// [`ContextError`]
    pub fn write(&self, path: &Path) -> Result<(), ContextError> {
        Ok(folder::write(path, &toml::to_string_pretty(self)?)?)
    }
}

/// Where a user's own context is; `None` where it has no home.
#[must_use]
pub fn user_file() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(config.join(USER_FOLDER).join(FILE))
}

/// What a command needs to reach its cluster.
pub struct Context {
    pub servers: Vec<String>,
    pub access: Access,
}

/// # Errors
/// [`Failure::NoCluster`], and whatever is wrong with the files.
pub fn resolve(global: &Global) -> Result<Context, Failure> {
    let file = found(global)?;
    let servers = match (&global.server[..], &file) {
        ([], None) => return Err(Failure::NoCluster),
        ([], Some(file)) => file.servers.clone(),
        (named, _) => named.to_vec(),
    };
    // Plain text was asked for: nothing is shown that somebody on the way could read.
    if servers.iter().all(|server| server.trim().starts_with("http://")) {
        let access = Access::plain();
        return Ok(Context { servers, access });
    }
    let file = file.unwrap_or_default();
    let authority = match global.ca.as_ref().or(file.ca.as_ref()) {
        Some(path) => Some(folder::read(path).map_err(ContextError::from)?),
        None => None,
    };
    let token = match (&global.token, &file.token) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(path)) => Some(folder::read_secret(path).map_err(ContextError::from)?),
        (None, None) => None,
    };
    Ok(Context {
        servers,
        access: Access::new(authority.as_deref(), token.as_deref())?,
    })
}

fn found(global: &Global) -> Result<Option<File>, Failure> {
    if let Some(path) = &global.context {
        return Ok(Some(File::read(path)?));
    }
    if let Some(context) = dev::context()? {
        return Ok(Some(context));
    }
    match user_file().filter(|path| path.exists()) {
        Some(path) => Ok(Some(File::read(&path)?)),
        None => Ok(None),
    }
}
