//! What one sandbox may do on the network, beyond which everything is closed.

use proto::spec::{EgressRule, SandboxSpec};
use proto::status::AssignedPort;

/// All that is opened for a sandbox. The default opens nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// May open connections to the outside: not to other sandboxes, the node, link-local or protected addresses.
    pub egress: bool,
    /// Destinations that are open although `egress` is false; the same addresses stay closed. Sandboxes have no
    /// IPv6 address: an IPv6 destination opens nothing.
    pub allow: Vec<EgressRule>,
    /// The node's ports that lead to the sandbox's.
    pub ports: Vec<AssignedPort>,
}

impl Rules {
    #[must_use]
    pub fn of(spec: &SandboxSpec, ports: &[AssignedPort]) -> Self {
        Self {
            egress: spec.egress,
            allow: spec.egress_allow.clone(),
            ports: ports.to_vec(),
        }
    }
}
