//! `sbxctl cluster`: what concerns the cluster as a whole.

mod backup;
mod check;
mod init;
mod members;

use crate::args::{ClusterArgs, ClusterCommand};
use crate::failure::Failure;
use crate::invocation::Invocation;

/// # Errors
/// [`Failure`]
pub async fn run(args: &ClusterArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    match &args.command {
        ClusterCommand::Init(args) => init::run(args, invocation),
        ClusterCommand::Members { stale } => members::list(*stale, invocation).await,
        ClusterCommand::Add(args) => members::add(args, invocation).await,
        ClusterCommand::Remove(args) => members::remove(args, invocation).await,
        ClusterCommand::Promote { ids } => members::promote(ids, invocation).await,
        ClusterCommand::Check => check::run(invocation).await,
        ClusterCommand::Backup(args) => backup::run(args, invocation).await,
        ClusterCommand::TransferLeader { to } => members::transfer(*to, invocation).await,
    }
}
