//! `sbxctl validate`: checks manifests without a cluster.

use super::apply::source;
use crate::args::ValidateArgs;
use crate::client::{identity, kind_name};
use crate::failure::Failure;
use crate::invocation::Invocation;

/// # Errors
/// [`Failure::Invalid`] with every fault of every file.
pub fn run(args: &ValidateArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    args.files.required("validate")?;
    invocation.refuse_format("validate")?;
    for sourced in source::read_all(&args.files.filename)? {
        let (kind, id) = identity(&sourced.manifest);
        invocation.say(format_args!("{}: {}/{id} valid", sourced.source, kind_name(kind)))?;
    }
    Ok(())
}
