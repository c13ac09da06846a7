//! A local cluster of real processes: each member a host of its own, in a network namespace with its own
//! address, so that failures are those of a real cluster. Members share the machine's mounts and cgroups.
//!
//! | file | owns |
//! |---|---|
//! | `plan` | names, addresses and command lines, from a few numbers; pure |
//! | `record` | what is written about a cluster: `cluster.json`, the pointer to the newest |
//! | `up`, `add`, `down`, `member`, `partition`, `status` | one verb each, or a family |
//! | `health` | whether there is a leader, and which nodes are Ready |
//! | `network` | bridge, veth pairs, addresses; `netns` the namespaces; `firewall` masquerading and partitions |
//! | `forwarding` | the machine's `ip_forward`, while clusters are up |
//! | `process` | starting, signalling and awaiting processes, never a recycled pid |
//! | `cgroup`, `mount` | ending and unmounting what sandboxes have left |
//! | `sys` | the system calls that need `unsafe` |
//!
//! Nothing here is on the path of a real cluster.

mod add;
mod cgroup;
mod down;
mod error;
mod firewall;
mod forwarding;
mod health;
mod member;
mod mount;
mod netns;
mod network;
mod partition;
mod plan;
mod process;
mod record;
mod status;
mod sys;
mod up;

pub use error::DevError;

use crate::args::{AddArg, DevArgs, DevCommand};
use crate::context;
use crate::failure::Failure;
use crate::invocation::Invocation;
use std::path::Path;

/// # Errors
/// [`Failure`]
pub async fn run(args: &DevArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    let named = args.dir.as_deref();
    let only_looks = matches!(args.command, DevCommand::Status);
    if !only_looks {
        invocation.refuse_format("dev")?;
        if !nix::unistd::geteuid().is_root() {
            return Err(DevError::NotRoot.into());
        }
    }
    let dir = || record::find(named);
    match &args.command {
        DevCommand::Status => status::run(&dir()?, invocation).await,
        DevCommand::Up(up) => {
            let dir = named.unwrap_or(Path::new(record::DEFAULT_DIR));
            up::run(dir, up, invocation).await
        }
        DevCommand::Add {
            what: AddArg::Replica,
        } => add::replica(&dir()?, invocation).await,
        DevCommand::Kill(args) => member::kill(&dir()?, &args.members, invocation).await,
        DevCommand::Pause(args) => member::pause(&dir()?, &args.members, invocation).await,
        DevCommand::Resume(args) => member::resume(&dir()?, &args.members, invocation).await,
        DevCommand::Restart(args) => member::restart(&dir()?, &args.members, invocation).await,
        DevCommand::Partition(args) => partition::cut(&dir()?, &args.members, invocation).await,
        DevCommand::Heal => partition::heal(&dir()?, invocation),
        DevCommand::Down { keep_data } => down::run(&dir()?, *keep_data, invocation).await,
    }
}

/// How the local cluster that is up is reached; `None` where there is none.
///
/// # Errors
/// [`DevError`] where its record can't be read.
pub fn context() -> Result<Option<context::File>, DevError> {
    let Some(dir) = record::pointed()? else {
        return Ok(None);
    };
    let record = record::Record::load(&dir)?;
    let plan = record.plan();
    let beside = |name: &str| (!plan.insecure).then(|| plan.identity().join(name));
    Ok(Some(context::File {
        servers: plan.endpoints(),
        ca: beside(identity::folder::AUTHORITY),
        token: beside(crate::provision::TOKEN),
    }))
}
