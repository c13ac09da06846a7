//! `sbxctl cluster`: what concerns the cluster as a whole.

mod init;

use crate::args::{ClusterArgs, ClusterCommand};
use crate::failure::Failure;
use crate::invocation::Invocation;

/// # Errors
/// [`Failure`]
pub fn run(args: &ClusterArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    match &args.command {
        ClusterCommand::Init(args) => init::run(args, invocation),
    }
}
