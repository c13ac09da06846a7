//! What a cluster refuses although the manifest is well-formed: that which loosens a container's isolation. Users with
//! the right to change it decide; the control plane asks [`Policy::check`] when a sandbox is created.

use crate::manifest::{Fault, Faults};
use crate::spec::{Container, Profile, SandboxSpec, SecurityOpt};
use crate::wire;
use serde::{Deserialize, Serialize};

/// The capabilities of a container that asks for nothing: Docker's default set
/// (moby `oci/caps/defaults.go`), without the `CAP_` prefix.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What sandboxes of this cluster may loosen. The default allows nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// `cap_add` beyond [`DEFAULT_CAPABILITIES`].
    pub extra_capabilities: bool,
    /// `seccomp=unconfined`, `apparmor=unconfined`.
    pub unconfined: bool,
    /// `no-new-privileges:false`.
    pub new_privileges: bool,
}

/// What shall be allowed or refused from now on; what is absent stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyChange {
    pub extra_capabilities: Option<bool>,
    pub unconfined: Option<bool>,
    pub new_privileges: Option<bool>,
}

impl PolicyChange {
    /// The policy as it is with this change.
    #[must_use]
    pub fn of(self, before: Policy) -> Policy {
        Policy {
            extra_capabilities: self.extra_capabilities.unwrap_or(before.extra_capabilities),
            unconfined: self.unconfined.unwrap_or(before.unconfined),
            new_privileges: self.new_privileges.unwrap_or(before.new_privileges),
        }
    }
}

impl From<wire::PolicyChange> for PolicyChange {
    fn from(change: wire::PolicyChange) -> Self {
        Self {
            extra_capabilities: change.extra_capabilities,
            unconfined: change.unconfined,
            new_privileges: change.new_privileges,
        }
    }
}

impl From<PolicyChange> for wire::PolicyChange {
    fn from(change: PolicyChange) -> Self {
        Self {
            extra_capabilities: change.extra_capabilities,
            unconfined: change.unconfined,
            new_privileges: change.new_privileges,
        }
    }
}

impl From<wire::Policy> for Policy {
    fn from(policy: wire::Policy) -> Self {
        Self {
            extra_capabilities: policy.extra_capabilities,
            unconfined: policy.unconfined,
            new_privileges: policy.new_privileges,
        }
    }
}

impl From<Policy> for wire::Policy {
    fn from(policy: Policy) -> Self {
        Self {
            extra_capabilities: policy.extra_capabilities,
            unconfined: policy.unconfined,
            new_privileges: policy.new_privileges,
        }
    }
}

impl Policy {
    /// # Errors
    /// Everything in `spec` that this policy refuses, by path.
    pub fn check(&self, spec: &SandboxSpec) -> Result<(), Faults> {
        let mut faults = Faults::default();
        for (i, container) in spec.containers.iter().enumerate() {
            self.check_container(&format!("spec.containers[{i}]"), container, &mut faults);
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn check_container(&self, path: &str, container: &Container, faults: &mut Faults) {
        let mut refuse = |field: &str, i: usize, what: &str| {
            let message = format!("{what} loosens isolation and is refused by this cluster's policy");
            faults.0.push(Fault {
                document: 1,
                path: format!("{path}.{field}[{i}]"),
                message,
            });
        };
        for (i, cap) in container.cap_add.iter().enumerate() {
            if !self.extra_capabilities && !DEFAULT_CAPABILITIES.contains(&cap.as_str()) {
                refuse("cap_add", i, &format!("`{cap}`"));
            }
        }
        for (i, option) in container.security_opt.iter().enumerate() {
            let refused = match option {
                SecurityOpt::NoNewPrivileges(on) => !on && !self.new_privileges,
                SecurityOpt::Seccomp(p) | SecurityOpt::Apparmor(p) => {
                    *p == Profile::Unconfined && !self.unconfined
                }
            };
            if refused {
                refuse("security_opt", i, &format!("`{option}`"));
            }
        }
    }
}
