//! What can go wrong with a local cluster.

use crate::client::ClientError;
use crate::provision::ProvisionError;
use identity::folder::FolderError;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum DevError {
    #[error("a local cluster makes network namespaces and mounts: run `sbxctl dev` as root")]
    NotRoot,
    #[error("no local cluster is up (no {}): start one with `sbxctl dev up`", looked.display())]
    NoCluster { looked: PathBuf },
    #[error("a cluster is up in {} already: see `sbxctl dev status`, end it with `sbxctl dev down`", dir.display())]
    AlreadyUp { dir: PathBuf },
    #[error("{} holds other things: name an empty or a new folder with --dir", dir.display())]
    NotEmpty { dir: PathBuf },
    #[error("{} keeps the data of a cluster of {was}: say so again, or remove the folder", dir.display())]
    OtherShape { dir: PathBuf, was: String },
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    #[error(transparent)]
    Identity(#[from] FolderError),
    #[error("{act} {}: {source}", path.display())]
    Io {
        act: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("read {}: {source}", path.display())]
    Malformed {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("no `{name}` beside sbxctl or on PATH: build or install it first")]
    NoBinary { name: &'static str },
    #[error("--subnet {text}: {why}")]
    Subnet { text: String, why: &'static str },
    #[error("every /24 of 10.88.0.0/16 is in use on this machine: name another with --subnet")]
    NoFreeSubnet,
    #[error("a local cluster has room for no more replicas")]
    NoRoom,
    #[error("{member} has not joined within {}; its log:\n{log}", humantime::format_duration(*waited))]
    NotJoined {
        member: String,
        waited: Duration,
        log: String,
    },
    #[error("--label {text}: write KEY=VALUE or agent-N:KEY=VALUE")]
    Label { text: String },
    #[error("{act}: {source}")]
    Link { act: String, source: rtnetlink::Error },
    #[error("{act}: there is no link {name}")]
    NoLink { act: &'static str, name: String },
    #[error("{act} network namespace {}: {source}", path.display())]
    Namespace {
        act: &'static str,
        path: PathBuf,
        source: nix::Error,
    },
    #[error("{act}: run nft: {source} (Debian has it in the package nftables)")]
    RunNft { act: String, source: std::io::Error },
    #[error("{act}: nft refused it: {stderr}")]
    Nft { act: String, stderr: String },
    #[error("start {member} ({}): {source}", program.display())]
    Spawn {
        member: String,
        program: PathBuf,
        source: std::io::Error,
    },
    #[error("{act} {member}: {source}")]
    Signal {
        act: &'static str,
        member: String,
        source: std::io::Error,
    },
    #[error("there is no member `{name}`: leader, {known}")]
    UnknownMember { name: String, known: String },
    #[error("{member} is {state}: {advice}")]
    WrongState {
        member: String,
        state: &'static str,
        advice: &'static str,
    },
    #[error("no replica leads at present: name one, or try again in a second")]
    NoLeader,
    #[error("{member} ended as soon as it was started ({how}); its last lines:\n{log}")]
    Died {
        member: String,
        how: String,
        log: String,
    },
    #[error("the cluster was not ready within {}: {missing}\n{log}", humantime::format_duration(*waited))]
    NotReady {
        waited: Duration,
        missing: String,
        log: String,
    },
    #[error("interrupted; what had been made was removed")]
    Interrupted,
    #[error("{} may not be gone; run `sbxctl dev down` again after looking into it:\n  {}", what, failures.join("\n  "))]
    Teardown { what: String, failures: Vec<String> },
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl DevError {
    pub(super) fn io(act: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { act, path, source }
    }
}
