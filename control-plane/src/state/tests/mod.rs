//! The state, command by command. Every step checks the invariants, and that the writes so far, loaded anew, give
//! the same state.

mod digest;
mod events;
mod externals;
mod levels;
mod nodes;
mod policy;
mod ports;
mod replicas;
mod requests;
mod sandboxes;
mod simulation;
mod stored;
mod tokens;

use super::*;
use proto::status::{NodeState, Phase};
use proto::wire::command::Op;
use std::time::Duration;

/// A state with its stored form beside it.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) state: State,
    stored: BTreeMap<Vec<u8>, Vec<u8>>,
    index: u64,
    pub(super) now_ms: u64,
    /// Of the last step.
    pub(super) changes: Vec<Change>,
}

impl World {
    /// Nodes that are registered, of 4 cores and 4 GiB that can be given away.
    pub(super) fn with_nodes(ids: &[&str]) -> Self {
        let mut world = Self {
            now_ms: 1_000_000,
            ..Self::default()
        };
        for id in ids {
            world.run(register(id)).accepted();
        }
        world
    }

    #[track_caller]
    pub(super) fn run(&mut self, op: Op) -> Answered {
        self.run_with_id("", op)
    }

    #[track_caller]
    pub(super) fn run_with_id(&mut self, request_id: &str, op: Op) -> Answered {
        let command = wire::Command {
            request_id: request_id.to_owned(),
            op: Some(op),
        };
        let mut answers = self.run_batch(vec![command]);
        Answered(answers.remove(0))
    }

    #[track_caller]
    pub(super) fn run_batch(&mut self, commands: Vec<wire::Command>) -> Vec<wire::Answer> {
        self.index += 1;
        let batch = wire::Batch {
            now_ms: self.now_ms,
            commands,
        };
        let asked = batch.commands.len();
        let level = self.state.level();
        let applied = self.state.apply_batch(self.index, batch);
        assert_eq!(applied.answers.len(), asked);
        assert!(self.state.level() >= level, "a level is never lowered");
        for write in applied.writes {
            match write.value {
                Some(value) => self.stored.insert(write.key, value),
                None => self.stored.remove(&write.key),
            };
        }
        self.changes = applied.changes;
        let violations = self.state.violations();
        assert!(violations.is_empty(), "{violations:#?}");
        applied.answers
    }

    /// What a replica would hold that starts from what was written.
    #[track_caller]
    pub(super) fn check_reload(&self) {
        let loaded = State::load(self.stored.iter()).expect("what was written can be read");
        assert_eq!(loaded, self.state);
        // What would be written of it anew is what was written.
        let records =
            crate::state::stored::records(&self.state).filter_map(|write| Some((write.key, write.value?)));
        assert_eq!(records.collect::<BTreeMap<_, _>>(), self.stored);
        assert_eq!(loaded.digest(), self.state.digest());
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now_ms += u64::try_from(time.as_millis()).expect("a short time");
    }

    #[track_caller]
    pub(super) fn sandbox(&self, id: &str) -> Arc<Sandbox> {
        let id = id.parse().expect("an id");
        self.state
            .sandbox(&id)
            .cloned()
            .unwrap_or_else(|| panic!("no sandbox {id}"))
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.state.sandbox(&id.parse().expect("an id")).is_some()
    }

    #[track_caller]
    pub(super) fn phase(&self, id: &str) -> Phase {
        self.sandbox(id).status.phase
    }

    #[track_caller]
    pub(super) fn node_state(&self, id: &str) -> NodeState {
        self.state
            .node(&id.parse().expect("an id"))
            .expect("a node")
            .state
    }

    /// Applies a sandbox and places it.
    #[track_caller]
    pub(super) fn placed(&mut self, id: &str, node: &str, more: &str) -> u64 {
        self.run(sandbox(id, more)).accepted();
        let uid = self.sandbox(id).uid.0;
        self.run(place(uid, node, &[])).accepted();
        assert_eq!(self.phase(id), Phase::Scheduled);
        uid
    }
}

/// One answer, with what tests ask of it.
#[derive(Debug)]
pub(super) struct Answered(pub(super) wire::Answer);

impl Answered {
    #[track_caller]
    pub(super) fn accepted(self) -> wire::Accepted {
        match self.0.answer {
            Some(wire::answer::Answer::Accepted(accepted)) => accepted,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn outcome(self, expected: wire::Outcome) {
        assert_eq!(self.accepted().outcome(), expected);
    }

    #[track_caller]
    pub(super) fn rejected(self, code: wire::rejected::Code, part: &str) -> Vec<String> {
        match self.0.answer {
            Some(wire::answer::Answer::Rejected(rejected)) => {
                assert_eq!(rejected.code(), code, "{rejected:?}");
                assert!(
                    rejected.message.contains(part),
                    "{rejected:?} does not say {part:?}"
                );
                rejected.fields
            }
            other => panic!("{other:?}"),
        }
    }
}

fn apply(text: &str, replace: bool) -> Op {
    let manifest = proto::manifest::parse(text).expect("a good manifest").remove(0);
    Op::Apply(wire::ApplyObject {
        manifest: Some((&manifest).into()),
        replace,
        ..Default::default()
    })
}

/// Of half a core and 64 MiB; `more` are further lines of its `spec`.
fn manifest(id: &str, more: &str) -> String {
    format!(
        "apiVersion: sandboxd.o/v1\nkind: Sandbox\nid: {id}\nspec:\n  {more}\n  containers:\n    \
         - {{name: main, image: busybox, resource: {{cpu: 500m, memory: 64Mi, ephemeral_storage: 16Mi}}}}\n"
    )
}

pub(super) fn sandbox(id: &str, more: &str) -> Op {
    apply(&manifest(id, more), false)
}

pub(super) fn replacing(id: &str, more: &str) -> Op {
    apply(&manifest(id, more), true)
}

pub(super) fn node(id: &str, labels: &str, spec: &str) -> Op {
    let text = format!(
        "apiVersion: sandboxd.o/v1\nkind: Node\nid: {id}\nmetadata: {{labels: {{{labels}}}}}\nspec: {{{spec}}}\n"
    );
    apply(&text, false)
}

pub(super) fn external(id: &str, node: &str, name: &str) -> Op {
    let text = format!(
        "apiVersion: sandboxd.o/v1\nkind: External\nid: {id}\nspec: {{node_id: {node}, external: {name}}}\n"
    );
    apply(&text, false)
}

pub(super) fn delete(kind: wire::Kind, id: &str, force: bool) -> Op {
    Op::Delete(wire::DeleteObject {
        kind: kind.into(),
        id: id.to_owned(),
        force,
    })
}

pub(super) fn register(id: &str) -> Op {
    Op::RegisterNode(wire::RegisterNode {
        node_id: id.to_owned(),
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        report: Some(wire::NodeReport {
            ip: "10.0.0.1".to_owned(),
            capacity: Some(wire::NodeCapacity {
                cpu_milli: 4_000,
                memory_bytes: 4 << 30,
                max_alloc_percent: 100,
            }),
            runtimes: vec![wire::RuntimeInfo {
                runtime: wire::Runtime::Native.into(),
                version: "1".to_owned(),
            }],
            default_runtime: wire::Runtime::Native.into(),
            ..Default::default()
        }),
    })
}

pub(super) fn set_state(id: &str, state: wire::NodeState) -> Op {
    Op::SetNodeState(wire::SetNodeState {
        node_id: id.to_owned(),
        state: state.into(),
        reason: "as the test has it".to_owned(),
    })
}

pub(super) fn place(uid: u64, node: &str, ports: &[(u32, u32, wire::Protocol)]) -> Op {
    Op::Place(wire::Place {
        placements: vec![placement(uid, node, ports)],
    })
}

pub(super) fn placement(uid: u64, node: &str, ports: &[(u32, u32, wire::Protocol)]) -> wire::Placement {
    let ports = ports
        .iter()
        .map(|&(host_port, container_port, protocol)| wire::AssignedPort {
            host_port,
            container_port,
            protocol: protocol.into(),
        });
    wire::Placement {
        sandbox_id: String::new(),
        uid,
        node_id: node.to_owned(),
        ports: ports.collect(),
    }
}

pub(super) fn report(node: &str, id: &str, uid: u64, phase: wire::Phase) -> Op {
    Op::ReportStatus(wire::ReportStatus {
        node_id: node.to_owned(),
        reports: vec![wire::SandboxReport {
            sandbox_id: id.to_owned(),
            uid,
            phase: phase.into(),
            reason: match phase {
                wire::Phase::Failed => wire::Reason::ContainerExited.into(),
                _ => 0,
            },
            ip: "10.89.0.2".to_owned(),
            ..Default::default()
        }],
    })
}

pub(super) fn expire(uids: &[u64], retention: Duration) -> Op {
    Op::Expire(wire::Expire {
        sandboxes: uids
            .iter()
            .map(|uid| wire::ExpireSandbox {
                sandbox_id: String::new(),
                uid: *uid,
            })
            .collect(),
        ended_retention_ms: u64::try_from(retention.as_millis()).expect("short"),
    })
}
