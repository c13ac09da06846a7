//! A profile as the instructions that the kernel runs at each system call. Making them takes libseccomp some
//! milliseconds, and most containers have the same profile: they are made once, and lie beside each container's bundle
//! for the built-in runtime.

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall, Spec,
};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// In a bundle's folder.
const FILE: &str = "seccomp.bpf";
const FILE_MODE: u32 = 0o600;
/// Profiles that are kept: one for each set of capabilities in use, and a node's own; a handful everywhere.
const KEPT: usize = 16;
/// A binary tree instead of a list: some ten comparisons a call instead of hundreds.
const TREE: u32 = 2;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("cannot make a filter of system calls: {act}: {source}")]
    Make {
        act: String,
        source: libseccomp::error::SeccompError,
    },
    #[error("{0} in a seccomp profile needs a program that answers, which there is none of")]
    Notify(LinuxSeccompAction),
    #[error("the processor `{0}` of a seccomp profile is not known")]
    Architecture(Arch),
    #[error("cannot keep a filter of system calls: {0}")]
    Keep(io::Error),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
}

/// Those made of late.
#[derive(Debug, Default)]
pub struct Filters {
    kept: Mutex<Vec<(LinuxSeccomp, Arc<[u8]>)>>,
}

impl Filters {
    /// Writes the filter of `spec` into the folder of its bundle; a spec without a profile has none. Blocks.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn write(&self, spec: &Spec, bundle: &Path) -> Result<(), FilterError> {
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let Some(profile) = profile else {
            return Ok(());
        };
        let filter = self.of(profile)?;
        let path = bundle.join(FILE);
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(FILE_MODE);
        let written = options.open(&path).and_then(|mut file| file.write_all(&filter));
        written.map_err(|source| FilterError::Write { path, source })
    }

    fn of(&self, profile: &LinuxSeccomp) -> Result<Arc<[u8]>, FilterError> {
        // Whoever comes second waits for what the first one makes.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|(known, _)| known == profile) {
            let found = kept.remove(at);
            let filter = found.1.clone();
            kept.push(found);
            return Ok(filter);
        }
        let filter: Arc<[u8]> = make(profile)?.into();
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push((profile.clone(), filter.clone()));
        Ok(filter)
    }
}

/// The filter beside a bundle, as [`Filters::write`] has left it there.
///
/// # Errors
/// [`FilterError::Read`].
pub fn compiled(bundle: &Path) -> Result<Vec<u8>, FilterError> {
    let path = bundle.join(FILE);
    std::fs::read(&path).map_err(|source| FilterError::Read { path, source })
}

/// As the kernel's `struct sock_filter`, in the machine's own order of bytes.
fn make(profile: &LinuxSeccomp) -> Result<Vec<u8>, FilterError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut filter = ScmpFilterContext::new(default).map_err(failed("begin"))?;
    for known in profile.architectures().iter().flatten() {
        filter.add_arch(architecture(*known)?).map_err(failed(known))?;
    }
    filter
        .set_ctl_optimize(TREE)
        .map_err(failed("arrange it as a tree"))?;
    for call in profile.syscalls().iter().flatten() {
        let act = action(call.action(), call.errno_ret())?;
        // A rule that says what holds anyway is an error to libseccomp.
        if act != default {
            add(&mut filter, act, call)?;
        }
    }
    // It can write to a file alone.
    let name = c"seccomp";
    let kept = nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    let mut kept = File::from(kept.map_err(|source| FilterError::Keep(source.into()))?);
    filter.export_bpf(&kept).map_err(failed("render it"))?;
    let mut bytes = Vec::new();
    let read = kept
        .rewind()
        .and_then(|()| io::Read::read_to_end(&mut kept, &mut bytes));
    read.map_err(FilterError::Keep)?;
    Ok(bytes)
}

fn add(filter: &mut ScmpFilterContext, act: ScmpAction, call: &LinuxSyscall) -> Result<(), FilterError> {
    let conditions: Vec<_> = call.args().iter().flatten().map(condition).collect();
    let arguments: BTreeSet<_> = call.args().iter().flatten().map(LinuxSeccompArg::index).collect();
    // Of many conditions on one argument any will do, as with `runc`; libseccomp takes only one in a rule.
    let rules: Vec<&[ScmpArgCompare]> = if arguments.len() < conditions.len() {
        conditions.chunks(1).collect()
    } else {
        vec![&conditions]
    };
    for name in call.names() {
        // One that this library does not know yet stays as the default has it.
        let Ok(number) = ScmpSyscall::from_name(name) else {
            continue;
        };
        for rule in &rules {
            filter
                .add_rule_conditional(act, number, rule)
                .map_err(failed(name))?;
        }
    }
    Ok(())
}

fn condition(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    let (value, second) = (argument.value(), argument.value_two());
    let index = u32::try_from(argument.index()).unwrap_or(u32::MAX);
    let (operator, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        // The first is the mask, the second what is left behind it.
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(value), second.unwrap_or_default())
        }
    };
    ScmpArgCompare::new(index, operator, value)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, FilterError> {
    let errno = errno.unwrap_or(libc::EPERM.cast_unsigned());
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno.cast_signed()),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(u16::try_from(errno).unwrap_or(u16::MAX)),
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActNotify => return Err(FilterError::Notify(action)),
    })
}

/// Those that this agent is built for, and the older ones whose programs they run as well.
fn architecture(architecture: Arch) -> Result<ScmpArch, FilterError> {
    match architecture {
        Arch::ScmpArchNative => Ok(ScmpArch::Native),
        Arch::ScmpArchX86 => Ok(ScmpArch::X86),
        Arch::ScmpArchX86_64 => Ok(ScmpArch::X8664),
        Arch::ScmpArchX32 => Ok(ScmpArch::X32),
        Arch::ScmpArchArm => Ok(ScmpArch::Arm),
        Arch::ScmpArchAarch64 => Ok(ScmpArch::Aarch64),
        Arch::ScmpArchRiscv64 => Ok(ScmpArch::Riscv64),
        other => Err(FilterError::Architecture(other)),
    }
}

fn failed<T: ToString + ?Sized>(
    act: &T,
) -> impl FnOnce(libseccomp::error::SeccompError) -> FilterError + use<T> {
    let act = act.to_string();
    move |source| FilterError::Make { act, source }
}

#[cfg(test)]
mod tests;
