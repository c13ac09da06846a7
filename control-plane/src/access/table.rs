//! What each method takes. A method that is not listed takes an administrator; a test holds the list against the
//! services' own descriptions, so that a new one can't be forgotten.

use super::caller::Role::{self, Admin, Operator, Viewer};
use axum::http::Method;

/// What a caller must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Anybody.
    Open,
    /// Anybody: the method itself looks at a token for joining.
    Joining,
    /// A person of this role at least.
    AtLeast(Role),
    /// The agent of a node.
    Node,
    /// Another replica.
    Replica,
}

use Rule::{AtLeast, Joining, Node, Open, Replica};

/// By gRPC path.
const METHODS: &[(&str, Rule)] = &[
    ("/sandboxd.v1.Control/Apply", AtLeast(Operator)),
    ("/sandboxd.v1.Control/Get", AtLeast(Viewer)),
    ("/sandboxd.v1.Control/List", AtLeast(Viewer)),
    ("/sandboxd.v1.Control/Delete", AtLeast(Operator)),
    ("/sandboxd.v1.Control/Watch", AtLeast(Viewer)),
    ("/sandboxd.v1.Control/Logs", AtLeast(Viewer)),
    ("/sandboxd.v1.Control/Relay", AtLeast(Operator)),
    ("/sandboxd.v1.Control/GetPolicy", AtLeast(Viewer)),
    ("/sandboxd.v1.Control/SetPolicy", AtLeast(Admin)),
    ("/sandboxd.v1.Control/ScheduleNode", AtLeast(Operator)),
    ("/sandboxd.v1.Control/Cluster", AtLeast(Viewer)),
    ("/sandboxd.v1.Control/InitCluster", AtLeast(Admin)),
    ("/sandboxd.v1.Access/CreateToken", AtLeast(Admin)),
    ("/sandboxd.v1.Access/ListTokens", AtLeast(Admin)),
    ("/sandboxd.v1.Access/RevokeToken", AtLeast(Admin)),
    ("/sandboxd.v1.Access/Join", Joining),
    ("/sandboxd.v1.Access/Renew", Node),
    ("/sandboxd.v1.Access/NoteUses", Replica),
    ("/sandboxd.v1.Agent/Session", Node),
    ("/sandboxd.v1.Agent/Relay", Node),
    ("/sandboxd.v1.Raft/AppendEntries", Replica),
    ("/sandboxd.v1.Raft/Vote", Replica),
    ("/sandboxd.v1.Raft/PreVote", Replica),
    ("/sandboxd.v1.Raft/InstallSnapshot", Replica),
    ("/sandboxd.v1.Raft/HeldSnapshot", Replica),
    ("/sandboxd.v1.Raft/TransferLeader", Replica),
    ("/sandboxd.v1.Raft/ReadIndex", Replica),
    ("/sandboxd.v1.Raft/DescribeCluster", Replica),
    ("/sandboxd.v1.Raft/Dismiss", Replica),
    ("/sandboxd.v1.Raft/LookForRoom", Replica),
    ("/sandboxd.v1.Raft/StateSum", Replica),
    ("/sandboxd.v1.Cluster/AddReplica", AtLeast(Admin)),
    ("/sandboxd.v1.Cluster/PromoteReplica", AtLeast(Admin)),
    ("/sandboxd.v1.Cluster/RemoveReplica", AtLeast(Admin)),
    ("/sandboxd.v1.Cluster/TransferLeadership", AtLeast(Admin)),
    ("/sandboxd.v1.Cluster/Backup", AtLeast(Admin)),
    ("/sandboxd.v1.Cluster/Check", AtLeast(Admin)),
    ("/grpc.health.v1.Health/Check", Open),
    ("/grpc.health.v1.Health/Watch", Open),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        AtLeast(Viewer),
    ),
];

/// Pages that are open to everybody.
const OPEN: &[&str] = &["/healthz", "/readyz", "/openapi.json"];

/// What a gRPC method takes; `None` where it is not listed.
#[must_use]
pub fn method_rule(path: &str) -> Option<Rule> {
    METHODS
        .iter()
        .find_map(|(listed, rule)| (*listed == path).then_some(*rule))
}

/// Pages whose change takes an administrator.
const ADMINS: &[&str] = &["/api/v1/policy"];

/// What an HTTP request takes: reading a viewer, changing an operator.
pub(super) fn page_rule(method: &Method, path: &str) -> Rule {
    if *method == Method::GET || *method == Method::HEAD {
        if OPEN.contains(&path) {
            Open
        } else {
            AtLeast(Viewer)
        }
    } else if ADMINS.contains(&path) {
        AtLeast(Admin)
    } else {
        AtLeast(Operator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use std::collections::BTreeSet;

    /// Served on a machine's own socket, which is not the gate's.
    const LOCAL: [&str; 1] = ["NodeImages"];

    #[test]
    fn every_method_of_every_service_is_listed_once() {
        let described = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS).expect("it is described");
        let mut methods = BTreeSet::new();
        for file in &described.file {
            for service in file
                .service
                .iter()
                .filter(|service| !LOCAL.contains(&service.name()))
            {
                for method in &service.method {
                    methods.insert(format!(
                        "/{}.{}/{}",
                        file.package(),
                        service.name(),
                        method.name()
                    ));
                }
            }
        }
        // Those of gRPC itself are described elsewhere.
        let own = METHODS.iter().filter(|(path, _)| path.starts_with("/sandboxd."));
        let listed: Vec<String> = own.map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), methods);
        assert_eq!(listed.len(), methods.len(), "a method is listed twice");
    }

    #[track_caller]
    fn check(method: Method, path: &str, expected: Rule) {
        assert_eq!(page_rule(&method, path), expected, "{method} {path}");
    }

    #[test]
    fn pages_take_a_viewer_changes_an_operator_and_three_pages_nobody() {
        check(Method::GET, "/healthz", Open);
        check(Method::GET, "/readyz", Open);
        check(Method::GET, "/openapi.json", Open);
        check(Method::GET, "/metrics", AtLeast(Viewer));
        check(Method::POST, "/healthz", AtLeast(Operator));
        check(Method::GET, "/api/v1/sandboxes", AtLeast(Viewer));
        check(Method::GET, "/api/v1/policy", AtLeast(Viewer));
        check(Method::PATCH, "/api/v1/policy", AtLeast(Admin));
        check(Method::GET, "/healthz/", AtLeast(Viewer));
        for method in [Method::POST, Method::PATCH, Method::DELETE, Method::PUT] {
            check(method, "/api/v1/sandboxes", AtLeast(Operator));
        }
    }
}
