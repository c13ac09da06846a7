//! What a process in a container is: the OCI spec's `process`, as the steps' own types. Pure.

use super::plan::PlanError;
use caps::{Capability, CapsHashSet};
use nix::sys::resource::Resource;
use nix::unistd::{Gid, Uid};
use oci_spec::runtime::{Capabilities, PosixRlimitType, Process};
use std::path::PathBuf;

#[derive(Debug)]
pub(super) struct ProcessPlan {
    /// At least one.
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) cwd: PathBuf,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) groups: Vec<Gid>,
    pub(super) bounding: CapsHashSet,
    pub(super) effective: CapsHashSet,
    pub(super) permitted: CapsHashSet,
    /// With the soft and the hard limit.
    pub(super) limits: Vec<(Resource, u64, u64)>,
    pub(super) no_new_privileges: bool,
    pub(super) apparmor: Option<String>,
    pub(super) terminal: Option<Size>,
}

/// Of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) rows: u16,
    pub(super) columns: u16,
}

impl ProcessPlan {
    pub(super) fn of(process: &Process) -> Result<Self, PlanError> {
        let user = process.user();
        let groups = user.additional_gids().as_deref().unwrap_or_default();
        let sets = process.capabilities().as_ref();
        let sets = sets.ok_or(PlanError::Missing("capabilities"))?;
        let limits = process.rlimits().as_deref().unwrap_or_default().iter();
        let args = process.args().clone().filter(|args| !args.is_empty());
        Ok(Self {
            args: args.ok_or(PlanError::Missing("program"))?,
            env: process.env().clone().unwrap_or_default(),
            cwd: process.cwd().clone(),
            uid: Uid::from_raw(user.uid()),
            gid: Gid::from_raw(user.gid()),
            groups: groups.iter().copied().map(Gid::from_raw).collect(),
            bounding: capabilities(sets.bounding())?,
            effective: capabilities(sets.effective())?,
            permitted: capabilities(sets.permitted())?,
            limits: limits
                .map(|limit| Ok((resource(limit.typ())?, limit.soft(), limit.hard())))
                .collect::<Result<_, PlanError>>()?,
            no_new_privileges: process.no_new_privileges() == Some(true),
            apparmor: process.apparmor_profile().clone(),
            terminal: terminal(process),
        })
    }

    /// Where its program is looked for; empty: nowhere.
    pub(super) fn search_path(&self) -> &str {
        let path = self.env.iter().find_map(|entry| entry.strip_prefix("PATH="));
        path.unwrap_or_default()
    }
}

fn terminal(process: &Process) -> Option<Size> {
    process.terminal().filter(|is_wanted| *is_wanted)?;
    let clamp = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    let size = process.console_size();
    Some(Size {
        rows: size.map_or(0, |size| clamp(size.height())),
        columns: size.map_or(0, |size| clamp(size.width())),
    })
}

fn capabilities(set: &Option<Capabilities>) -> Result<CapsHashSet, PlanError> {
    let set = set.iter().flatten();
    set.map(|capability| {
        let name = format!("CAP_{capability}");
        let known: Result<Capability, _> = name.parse();
        known.map_err(|_| PlanError::Unknown {
            what: "the capability",
            value: name,
        })
    })
    .collect()
}

fn resource(kind: PosixRlimitType) -> Result<Resource, PlanError> {
    match kind {
        PosixRlimitType::RlimitNofile => Ok(Resource::RLIMIT_NOFILE),
        PosixRlimitType::RlimitCore => Ok(Resource::RLIMIT_CORE),
        PosixRlimitType::RlimitNproc => Ok(Resource::RLIMIT_NPROC),
        other => Err(PlanError::Unknown {
            what: "the limit",
            value: other.to_string(),
        }),
    }
}

/// What can't be less than nothing.
pub(super) fn number(what: &'static str, value: i64) -> Result<u64, PlanError> {
    u64::try_from(value).map_err(|_| PlanError::Unknown {
        what,
        value: value.to_string(),
    })
}
