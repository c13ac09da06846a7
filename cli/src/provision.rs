//! The identity of a new cluster, as a folder of files: its certificate authority, a folder for each machine, and the
//! first token. Made without a cluster, before there is one. Owns the layout; the files themselves are `identity`'s.
//! Called by `cluster init` and by the local cluster.
//!
//! ```text
//! ca.crt, ca.key          the authority; whoever has the key decides who belongs to the cluster
//! admin.token             of the administrator, for sbxctl
//! context.toml            where the cluster is, for sbxctl
//! replica-N/, node-ID/    to be copied to that machine, as its --tls-dir
//! ```

use crate::context;
use identity::authority::{Authority, AuthorityError};
use identity::folder::{self, FolderError};
use identity::pin::Fingerprint;
use identity::principal::Principal;
use identity::token::{Secret, TokenError};
use proto::id::NodeId;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Of the administrator's token, in the cluster's folder.
pub const TOKEN: &str = "admin.token";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    #[error("{} holds an identity already: nothing was changed", .0.display())]
    Exists(PathBuf),
    #[error(transparent)]
    File(#[from] FolderError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("the first token {0}")]
    Token(#[from] TokenError),
    #[error("write the context: {0}")]
    Context(#[from] context::ContextError),
}

/// A replica to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    pub id: u64,
    /// Names and addresses at which others reach it.
    pub hosts: Vec<String>,
}

/// The machines of a new cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machines {
    pub replicas: Vec<Replica>,
    pub agents: Vec<NodeId>,
    /// For users and agents, in the order in which they are tried.
    pub servers: Vec<String>,
}

/// The folder of one machine's identity.
#[must_use]
pub fn machine(dir: &Path, principal: &Principal) -> PathBuf {
    match principal {
        Principal::Replica(id) => dir.join(format!("replica-{id}")),
        Principal::Node(id) => dir.join(format!("node-{id}")),
    }
}

/// Makes everything; a folder that holds an identity is left alone. Gives the authority's fingerprint.
///
/// # Errors
/// [`ProvisionError`]
pub fn create(dir: &Path, machines: &Machines) -> Result<Fingerprint, ProvisionError> {
    if dir.join(folder::AUTHORITY).exists() || dir.join(folder::AUTHORITY_KEY).exists() {
        return Err(ProvisionError::Exists(dir.to_owned()));
    }
    let now = SystemTime::now();
    let authority = Authority::create(now)?;
    let token = Secret::generate()?;
    folder::create(dir)?;
    let key = authority.key();
    let first = token.hash().record(token.id());
    for replica in &machines.replicas {
        let principal = Principal::Replica(replica.id);
        let of_replica = write(dir, &authority, &principal, &replica.hosts, now)?;
        folder::write(&of_replica.join(folder::AUTHORITY_KEY), &key)?;
        folder::write(&of_replica.join(folder::FIRST_TOKEN), &format!("{first}\n"))?;
    }
    for agent in &machines.agents {
        write(dir, &authority, &Principal::Node(agent.clone()), &[], now)?;
    }
    folder::write(&dir.join(folder::AUTHORITY_KEY), &key)?;
    folder::write(&dir.join(TOKEN), &format!("{token}\n"))?;
    context::File::of_cluster(&machines.servers).write(&dir.join(context::FILE))?;
    // Last: it says that all is there.
    folder::write(&dir.join(folder::AUTHORITY), authority.certificate())?;
    Ok(Fingerprint::of_pem(authority.certificate()).unwrap_or(Fingerprint([0; 32])))
}

fn write(
    dir: &Path,
    authority: &Authority,
    principal: &Principal,
    hosts: &[String],
    now: SystemTime,
) -> Result<PathBuf, ProvisionError> {
    let dir = machine(dir, principal);
    let issued = authority.issue(principal, hosts, now)?;
    folder::create(&dir)?;
    folder::write(&dir.join(folder::AUTHORITY), authority.certificate())?;
    folder::write(&dir.join(folder::KEY), &issued.key)?;
    folder::write(&dir.join(folder::CERTIFICATE), &issued.chain)?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::credentials::Credentials;
    use identity::token::SecretHash;
    use std::os::unix::fs::PermissionsExt;

    fn machines() -> Machines {
        Machines {
            replicas: vec![Replica {
                id: 1,
                hosts: vec!["127.0.0.1".to_owned()],
            }],
            agents: vec![NodeId::new("n").expect("an id")],
            servers: vec!["https://127.0.0.1:7070".to_owned()],
        }
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir)
            .expect("there")
            .map(|entry| entry.expect("read").path());
        entries
            .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
            .collect()
    }

    #[test]
    fn every_machine_gets_its_identity_and_all_files_are_private() {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = temp.path().join("cluster");
        create(&dir, &machines()).expect("made");
        for principal in [
            Principal::Replica(1),
            Principal::Node("n".parse().expect("an id")),
        ] {
            let opened = Credentials::open(&machine(&dir, &principal)).expect("whole");
            assert_eq!(opened.principal(), principal);
        }
        for file in files(&dir) {
            let mode = std::fs::metadata(&file).expect("there").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", file.display());
        }
        let token: Secret = folder::read_secret(&dir.join(TOKEN))
            .expect("read")
            .parse()
            .expect("a token");
        let first = folder::read(&dir.join("replica-1").join(folder::FIRST_TOKEN)).expect("read");
        assert_eq!(
            SecretHash::from_record(&first),
            Ok((token.id().to_owned(), token.hash()))
        );
        assert!(!dir.join("node-n").join(folder::AUTHORITY_KEY).exists());
    }

    #[test]
    fn identity_that_is_there_is_left_alone() {
        let temp = tempfile::tempdir().expect("a folder");
        create(temp.path(), &machines()).expect("made");
        let before = folder::read(&temp.path().join(TOKEN)).expect("read");
        let again = create(temp.path(), &machines());
        assert!(matches!(again, Err(ProvisionError::Exists(_))));
        assert_eq!(folder::read(&temp.path().join(TOKEN)).expect("read"), before);
    }
}
