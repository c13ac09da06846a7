//! The container's first process: what it runs, as whom, with which environment and limits.

use super::{BundleError, BundleInput, assemble, resources};
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, LinuxCapabilitiesBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process,
    ProcessBuilder, UserBuilder,
};
use proto::spec::{Profile, SecurityOpt};

/// Where programs are looked for when neither image nor container says; Docker's.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Open files that a process starts with. More makes programs slow that close all that could be open; it
/// may raise the number itself up to the hard limit.
pub const OPEN_FILES: u64 = 65_536;
/// The most that it may raise it to, where the node allows so much; systemd's number for services.
const MAX_OPEN_FILES: u64 = 524_288;

pub(super) fn render(input: &BundleInput<'_>, capabilities: &Capabilities) -> Result<Process, BundleError> {
    let (args, env, cwd) = (args(input)?, env(input)?, cwd(input)?);
    let apparmor = apparmor(input)?;
    let build = || {
        let user = UserBuilder::default()
            .uid(input.user.uid)
            .gid(input.user.gid)
            .additional_gids(input.user.groups.clone())
            .build()?;
        // No inheritable and no ambient set: those survive a change of user.
        let sets = LinuxCapabilitiesBuilder::default()
            .bounding(capabilities.clone())
            .effective(capabilities.clone())
            .permitted(capabilities.clone())
            .inheritable(Capabilities::new())
            .ambient(Capabilities::new())
            .build()?;
        let process = ProcessBuilder::default()
            .terminal(false)
            .user(user)
            .args(args)
            .env(env)
            .cwd(cwd)
            .capabilities(sets)
            .rlimits(if input.sets_limits {
                limits(input)?
            } else {
                Vec::new()
            });
        let mut process = match apparmor {
            Some(profile) => process.apparmor_profile(profile).build()?,
            None => process.build()?,
        };
        // Absent where it is off, and never `false`: libcontainer takes that for a sign that seccomp can be set
        // up without privileges.
        process.set_no_new_privileges(no_new_privileges(input).then_some(true));
        Ok(process)
    };
    build().map_err(assemble(input))
}

fn args(input: &BundleInput<'_>) -> Result<Vec<String>, BundleError> {
    let (own, image) = (&input.container.args, input.image);
    let args: Vec<String> = if own.is_empty() {
        image.entrypoint.iter().chain(&image.cmd).cloned().collect()
    } else {
        own.clone()
    };
    if args.is_empty() {
        return Err(BundleError::NoCommand {
            container: input.container.name.clone(),
        });
    }
    without_nul(input, "what it runs", args)
}

/// What nobody sets has a default; the image's setting is overridden by the container's.
fn env(input: &BundleInput<'_>) -> Result<Vec<String>, BundleError> {
    let defaults = [
        format!("PATH={DEFAULT_PATH}"),
        format!("HOSTNAME={}", input.hostname),
        format!("HOME={}", input.user.home),
    ];
    let mut env: Vec<String> = Vec::new();
    // An entry of an image without `=` has no meaning.
    let image = input.image.env.iter().filter(|entry| entry.contains('='));
    for entry in defaults.iter().chain(image).chain(&input.container.env) {
        let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
        match env.iter_mut().find(|known| key(known) == key(entry)) {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    without_nul(input, "its environment", env)
}

fn cwd(input: &BundleInput<'_>) -> Result<String, BundleError> {
    let dir = input
        .container
        .work_dir
        .as_deref()
        .unwrap_or(&input.image.working_dir);
    // An image may say `app`, which is meant from the root.
    let dir = if dir.starts_with('/') {
        dir.to_owned()
    } else {
        format!("/{dir}")
    };
    Ok(without_nul(input, "its working directory", vec![dir])?.concat())
}

fn without_nul(
    input: &BundleInput<'_>,
    what: &'static str,
    texts: Vec<String>,
) -> Result<Vec<String>, BundleError> {
    if texts.iter().any(|text| text.contains('\0')) {
        return Err(BundleError::Nul {
            container: input.container.name.clone(),
            what,
        });
    }
    Ok(texts)
}

/// Only ever at or below the agent's own hard limits: raising those takes CAP_SYS_RESOURCE.
fn limits(input: &BundleInput<'_>) -> Result<Vec<PosixRlimit>, OciSpecError> {
    let hard = input.open_files.min(MAX_OPEN_FILES);
    let limit = |kind, soft: u64, hard: u64| {
        PosixRlimitBuilder::default()
            .typ(kind)
            .soft(soft)
            .hard(hard)
            .build()
    };
    let mut limits = vec![
        limit(PosixRlimitType::RlimitNofile, hard.min(OPEN_FILES), hard)?,
        // A core file would only fill the container's budget.
        limit(PosixRlimitType::RlimitCore, 0, 0)?,
    ];
    if let Some(membership) = input.instance {
        // The host's control groups count no process of an instance. It counts them itself, by user.
        let processes = resources::PIDS * membership.containers as u64;
        limits.push(limit(PosixRlimitType::RlimitNproc, processes, processes)?);
    }
    Ok(limits)
}

fn no_new_privileges(input: &BundleInput<'_>) -> bool {
    let options = input.container.security_opt.iter().rev();
    let last = options.filter_map(|option| match option {
        SecurityOpt::NoNewPrivileges(on) => Some(*on),
        SecurityOpt::Seccomp(_) | SecurityOpt::Apparmor(_) => None,
    });
    last.into_iter().next().unwrap_or(true)
}

/// There is no default profile of ours: without one, the node's own rules hold. A profile that nobody would enforce is
/// refused; "unconfined" needs nobody.
fn apparmor(input: &BundleInput<'_>) -> Result<Option<String>, BundleError> {
    let options = input.container.security_opt.iter().rev();
    let mut last = options.filter_map(|option| match option {
        SecurityOpt::Apparmor(profile) => Some(profile),
        SecurityOpt::Seccomp(_) | SecurityOpt::NoNewPrivileges(_) => None,
    });
    match last.next() {
        None | Some(Profile::RuntimeDefault) => Ok(None),
        Some(Profile::Unconfined) => Ok(input.apparmor.then(|| "unconfined".to_owned())),
        Some(Profile::Localhost(name)) if input.apparmor => Ok(Some(name.to_string())),
        Some(Profile::Localhost(name)) => Err(BundleError::NoApparmor {
            container: input.container.name.clone(),
            profile: name.clone(),
        }),
    }
}
