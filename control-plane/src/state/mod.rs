//! The replicated state: all objects of a cluster, and the one way in which they change. Pure: no clock, no
//! randomness, no I/O, no order of hashes, so that every replica that applies the same entries holds the same.
//!
//! | file | owns |
//! |---|---|
//! | `command` | what can be asked, as checked types |
//! | `transaction` | the one door: every change of an object, and the indexes that follow from it |
//! | `sandbox`, `node`, `external` | what each command does to its kind |
//! | `digest` | what a whole state comes to, to be compared |
//! | `drain` | taking a node out of use, and back |
//! | `events` | what has happened to an object, as its changes tell |
//! | `placement` | whether a placement holds, asked by `apply` and by the scheduler alike |
//! | `resting` | host ports that were given back a short while ago |
//! | `token` | who may speak to the cluster: tokens, made, used up, revoked |
//! | `level` | which versions can apply which commands |
//! | `replica` | the numbers of replicas that were given out, or are out of use for ever |
//! | `requests` | answers kept by request id, so that a retry takes effect once |
//! | `restored` | what a state becomes that is taken from a backup |
//! | `stored` | keys and values on disk |
//! | `invariants` | what must hold between any two commands; for tests |
//!
//! Called by the state machine's store, which writes [`Applied::writes`] and tells others [`Applied::changes`].

mod command;
mod digest;
mod drain;
mod events;
mod external;
mod invariants;
pub(crate) mod level;
mod node;
pub mod placement;
mod replica;
mod requests;
pub(crate) mod resting;
mod restored;
mod sandbox;
mod stored;
mod token;
mod transaction;

pub use command::Command;
pub use digest::Digest;
pub use level::{Level, Newer};
pub(crate) use replica::removed_text;
pub use replica::{Claim, MAX_NUMBERS, ReplicaNumber};
pub use requests::{MAX_ANSWERS, REMEMBERED};
pub use resting::{HostPort, PORT_REST};
pub use restored::Beginning;
pub use sandbox::expires_at;
pub use stored::LoadError;
pub(crate) use stored::{LEVEL_KEY, level_of};
pub use token::{MAX_TOKENS, Token};

use proto::id::{ExternalId, NodeId, SandboxId, Uid};
use proto::object::{External, Node, Sandbox};
use proto::policy::{Policy, PolicyChange};
use proto::units::{Bytes, MilliCpu, Timestamp};
use proto::wire;
use requests::Requests;
use resting::Resting;
use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use transaction::Transaction;

/// When and where in the log a command takes effect. The only time that replicated code knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The greatest time that any leader has stamped so far: never goes back.
    pub now: Timestamp,
    pub index: u64,
}

/// All objects, and the indexes that follow from them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    now: Timestamp,
    /// Of the newest sandbox; the next one gets one more.
    last_uid: u64,
    /// What sandboxes that are created may loosen.
    policy: Policy,
    /// All, those included that another of their id has replaced and whose node has not cleared them away yet.
    sandboxes: BTreeMap<Uid, Arc<Sandbox>>,
    /// The one with the greatest uid is what the id stands for.
    by_id: BTreeSet<(SandboxId, Uid)>,
    nodes: BTreeMap<NodeId, Arc<Node>>,
    externals: BTreeMap<ExternalId, Arc<External>>,
    external_of: BTreeMap<NodeId, ExternalId>,
    placed: BTreeMap<NodeId, Placed>,
    resting: Resting,
    requests: Requests,
    tokens: BTreeMap<String, Arc<Token>>,
    replicas: BTreeMap<u64, ReplicaNumber>,
    /// There was a token once: the cluster's first one is not made again.
    had_tokens: bool,
    /// Of all commands so far.
    level: Level,
}

/// What a node holds, also one that is not registered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Placed {
    uids: BTreeSet<Uid>,
    usage: Usage,
}

/// What the sandboxes take that are placed on a node and have not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu: MilliCpu,
    pub memory: Bytes,
    pub sandboxes: u32,
    pub ports: BTreeSet<HostPort>,
}

/// What a log entry did.
#[derive(Debug, Default)]
pub struct Applied {
    /// One per command, in their order.
    pub answers: Vec<wire::Answer>,
    /// In the order in which they happened.
    pub changes: Vec<Change>,
    /// To be written together, with the entry's position.
    pub writes: Vec<Write>,
    /// Request ids of checks: the state as it is after this entry is to be summed for them.
    pub checks: Vec<String>,
}

/// One key of the stored form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub key: Vec<u8>,
    /// `None`: delete it.
    pub value: Option<Vec<u8>>,
}

/// One object before and after; `None`: it was not, or is no longer, there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Sandbox {
        before: Option<Arc<Sandbox>>,
        after: Option<Arc<Sandbox>>,
        /// Its id stands for a newer sandbox: of interest to its node alone, users see the newer one.
        replaced: bool,
    },
    Node {
        before: Option<Arc<Node>>,
        after: Option<Arc<Node>>,
    },
    External {
        before: Option<Arc<External>>,
        after: Option<Arc<External>>,
    },
}

/// What a command did, where it took effect.
#[derive(Debug)]
struct Response {
    outcome: wire::Outcome,
    object: Option<wire::object::Object>,
}

/// Why a command took no effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
struct Rejection {
    code: wire::rejected::Code,
    message: String,
    /// Paths of fields that can't be changed.
    fields: Vec<String>,
}

impl Rejection {
    fn new(code: wire::rejected::Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            fields: Vec::new(),
        }
    }

    fn not_found(kind: &str, id: &str) -> Self {
        Self::new(
            wire::rejected::Code::NotFound,
            format!("{kind} {id} is not there"),
        )
    }

    fn conflict(message: impl Into<String>) -> Self {
        Self::new(wire::rejected::Code::Conflict, message)
    }

    fn stale(message: impl Into<String>) -> Self {
        Self::new(wire::rejected::Code::Stale, message)
    }
}

impl State {
    /// Applies all commands of a log entry. Never fails: what can't be done is an answer that says so.
    pub fn apply_batch(&mut self, index: u64, batch: wire::Batch) -> Applied {
        self.now = self.now.max(Timestamp(batch.now_ms));
        let stamp = Stamp { now: self.now, index };
        let mut applied = Applied::default();
        let rested = self.resting.end(stamp.now);
        applied
            .writes
            .extend(rested.iter().map(|(node, port)| stored::free_port(node, *port)));
        for command in batch.commands {
            let answer = match self.requests.answer(&command.request_id) {
                Some(first) => self.as_of_now(first),
                None => self.apply_one(stamp, command, &mut applied),
            };
            applied.answers.push(answer);
        }
        applied.writes.extend(self.requests.forget(stamp.now));
        applied.writes.push(stored::meta(self));
        applied
    }

    fn apply_one(&mut self, stamp: Stamp, command: wire::Command, applied: &mut Applied) -> wire::Answer {
        let request_id = command.request_id.clone();
        if matches!(command.op, Some(wire::command::Op::CheckState(_))) {
            applied.checks.push(request_id.clone());
        }
        let mut transaction = Transaction::new(self, stamp);
        let result = Command::try_from(command)
            .map_err(|e| Rejection::new(wire::rejected::Code::Invalid, e.to_string()))
            .and_then(|command| apply(&mut transaction, command));
        let (changes, records) = transaction.finish();
        applied.writes.extend(changes.iter().flat_map(stored::change));
        applied.writes.extend(records);
        applied.changes.extend(changes);
        let answer = answer(result);
        if !request_id.is_empty() {
            let write = self.requests.remember(&request_id, stamp.now, &answer);
            applied.writes.push(write);
        }
        answer
    }

    /// An answer that was kept, with its object as it is now; without one where it is there no more.
    fn as_of_now(&self, first: wire::Answer) -> wire::Answer {
        use wire::answer::Answer;
        use wire::object::Object as Wire;
        let Some(Answer::Accepted(mut accepted)) = first.answer else {
            return first;
        };
        accepted.object = accepted.object.and_then(|kept| {
            let object = match kept.object? {
                Wire::Sandbox(s) => Wire::Sandbox(self.sandboxes.get(&Uid(s.uid))?.as_ref().into()),
                Wire::Node(n) => Wire::Node(self.nodes.get(n.id.as_str())?.as_ref().into()),
                Wire::External(e) => Wire::External(self.externals.get(e.id.as_str())?.as_ref().into()),
            };
            Some(wire::Object { object: Some(object) })
        });
        wire::Answer {
            answer: Some(Answer::Accepted(accepted)),
        }
    }

    /// The state that these records of the stored form hold.
    ///
    /// # Errors
    /// [`LoadError`], which names the record that is damaged or unknown.
    pub fn load<K, V>(records: impl Iterator<Item = (K, V)>) -> Result<Self, LoadError>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        stored::load(records)
    }

    /// The greatest time that was stamped.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// What sandboxes that are created may loosen of their isolation.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// What the id stands for.
    #[must_use]
    pub fn sandbox(&self, id: &SandboxId) -> Option<&Arc<Sandbox>> {
        self.uids_of(id).last().and_then(|uid| self.sandboxes.get(&uid))
    }

    /// Also one that was replaced.
    #[must_use]
    pub fn sandbox_by_uid(&self, uid: Uid) -> Option<&Arc<Sandbox>> {
        self.sandboxes.get(&uid)
    }

    /// What users see, by id.
    pub fn sandboxes(&self) -> impl Iterator<Item = &Arc<Sandbox>> {
        self.sandboxes_after(None)
    }

    /// Those whose ids follow this one, which may be gone.
    pub fn sandboxes_after(&self, id: Option<&SandboxId>) -> impl Iterator<Item = &Arc<Sandbox>> + use<'_> {
        let from = match id {
            Some(id) => Bound::Excluded((id.clone(), Uid(u64::MAX))),
            None => Bound::Unbounded,
        };
        let mut ids = self.by_id.range((from, Bound::Unbounded)).peekable();
        std::iter::from_fn(move || {
            let (id, uid) = ids.next()?;
            let mut uid = *uid;
            while let Some((_, newer)) = ids.next_if(|(next, _)| next == id) {
                uid = *newer;
            }
            Some(uid)
        })
        .filter_map(|uid| self.sandboxes.get(&uid))
    }

    /// All, those included that were replaced and are not cleared away yet.
    pub fn all_sandboxes(&self) -> impl Iterator<Item = &Arc<Sandbox>> {
        self.sandboxes.values()
    }

    /// Everything that is or was placed on a node and is not cleared away yet: those included that were
    /// replaced, have ended, or are Deleting.
    pub fn sandboxes_on<'a>(&'a self, node: &NodeId) -> impl Iterator<Item = &'a Arc<Sandbox>> + use<'a> {
        let uids = self.placed.get(node).map(|placed| &placed.uids);
        uids.into_iter()
            .flatten()
            .filter_map(|uid| self.sandboxes.get(uid))
    }

    #[must_use]
    pub fn node(&self, id: &NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(id)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// Those whose ids follow this text.
    pub fn nodes_after<'a>(&'a self, id: Option<&str>) -> impl Iterator<Item = &'a Arc<Node>> + use<'a> {
        following(&self.nodes, id)
    }

    #[must_use]
    pub fn external(&self, id: &ExternalId) -> Option<&Arc<External>> {
        self.externals.get(id)
    }

    pub fn externals(&self) -> impl Iterator<Item = &Arc<External>> {
        self.externals.values()
    }

    /// Those whose ids follow this text.
    pub fn externals_after<'a>(
        &'a self,
        id: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<External>> + use<'a> {
        following(&self.externals, id)
    }

    /// The public name of a node.
    #[must_use]
    pub fn external_of(&self, node: &NodeId) -> Option<&str> {
        let id = self.external_of.get(node)?;
        self.externals.get(id).map(|e| e.spec.external.as_str())
    }

    /// What is taken of a node; nothing, of one that is not known.
    #[must_use]
    pub fn usage(&self, node: &NodeId) -> Usage {
        self.placed
            .get(node)
            .map(|placed| placed.usage.clone())
            .unwrap_or_default()
    }

    /// Ports of a node that were given back within [`PORT_REST`], with the time of that. None is in use.
    pub fn resting_ports(&self, node: &NodeId) -> impl Iterator<Item = (HostPort, Timestamp)> + use<'_> {
        self.resting.of(node)
    }

    /// Also one that holds no more: ask [`Token::holds`].
    #[must_use]
    pub fn token(&self, id: &str) -> Option<&Arc<Token>> {
        self.tokens.get(id)
    }

    /// By id.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<Token>> {
        self.tokens.values()
    }

    /// Whether there was ever a token.
    #[must_use]
    pub fn had_tokens(&self) -> bool {
        self.had_tokens
    }

    /// What a replica must be able to apply to be a member.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// What is known of a replica's number; `None`: it was never given out, though a member may have it from the
    /// cluster's beginning.
    #[must_use]
    pub fn replica_number(&self, id: u64) -> Option<&ReplicaNumber> {
        self.replicas.get(&id)
    }

    /// By number.
    pub fn replica_numbers(&self) -> impl Iterator<Item = &ReplicaNumber> {
        self.replicas.values()
    }

    /// A number that no replica has or had, `highest_member` being the greatest of the members.
    #[must_use]
    pub fn next_replica(&self, highest_member: u64) -> u64 {
        let known = self.replicas.last_key_value().map_or(0, |(id, _)| *id);
        known.max(highest_member).saturating_add(1)
    }

    /// How many answers are kept for retries.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.requests.len()
    }

    /// Oldest first.
    fn uids_of(&self, id: &SandboxId) -> impl DoubleEndedIterator<Item = Uid> + use<'_> {
        let range = (id.clone(), Uid(0))..=(id.clone(), Uid(u64::MAX));
        self.by_id.range(range).map(|(_, uid)| *uid)
    }
}

fn following<'a, K: Ord + Borrow<str>, V>(
    all: &'a BTreeMap<K, V>,
    id: Option<&str>,
) -> impl Iterator<Item = &'a V> + use<'a, K, V> {
    let from = id.map_or(Bound::Unbounded, Bound::Excluded);
    all.range::<str, _>((from, Bound::Unbounded))
        .map(|(_, value)| value)
}

/// The one place that knows all commands.
fn apply(to: &mut Transaction<'_>, command: Command) -> Result<Response, Rejection> {
    use proto::object::Kind;
    use proto::spec::Manifest;
    match command {
        Command::Apply {
            manifest,
            replace,
            expected_version,
            trace_id,
        } => {
            check_version(to.state(), &manifest, expected_version)?;
            to.trace_id = trace_id;
            match manifest {
                Manifest::Sandbox { id, labels, spec } => sandbox::apply(to, id, labels, spec, replace),
                Manifest::Node { id, labels, spec } => node::apply(to, id, labels, spec),
                Manifest::External { id, labels, spec } => external::apply(to, id, labels, spec),
            }
        }
        Command::Delete { kind, id, force } => match kind {
            Kind::Sandbox => sandbox::delete(to, &id),
            Kind::Node => node::delete(to, &id, force),
            Kind::External => external::delete(to, &id),
        },
        Command::RegisterNode { id, labels, report } => node::register(to, id, labels, report),
        Command::SetNodeState { id, state, reason } => node::set_state(to, &id, state, reason),
        Command::ScheduleNode {
            id,
            unschedulable,
            drain,
        } => drain::schedule(to, &id, unschedulable, drain),
        Command::EndDrain(id) => drain::end(to, &id),
        Command::Place(placements) => sandbox::place(to, placements),
        Command::ReportStatus { node, reports } => sandbox::report(to, &node, reports),
        Command::Expire { sandboxes, retention } => sandbox::expire(to, sandboxes, retention),
        Command::ExplainPending(explanations) => sandbox::explain(to, explanations),
        Command::SetPolicy(change) => Ok(set_policy(to, change)),
        Command::CreateToken { token, life, first } => token::create(to, token, life, first),
        Command::RevokeToken { id } => token::revoke(to, &id),
        Command::RedeemToken { id, grant, machine } => token::redeem(to, &id, grant, &machine),
        Command::NoteTokenUses(uses) => Ok(token::note_uses(to, uses)),
        Command::ClaimReplica(claim) => replica::claim(to, claim),
        Command::RetireReplica { id } => replica::retire(to, id),
        Command::RaiseLevel(level) => Ok(level::raise(to, level)),
        Command::CheckState => Ok(Response {
            outcome: wire::Outcome::Unchanged,
            object: None,
        }),
    }
}

fn set_policy(to: &mut Transaction<'_>, change: PolicyChange) -> Response {
    let before = to.state().policy();
    let after = change.of(before);
    to.put_policy(after);
    let outcome = if before == after {
        wire::Outcome::Unchanged
    } else {
        wire::Outcome::Configured
    };
    Response {
        outcome,
        object: None,
    }
}

/// Whether the object is still the one that the change was made from.
fn check_version(
    state: &State,
    manifest: &proto::spec::Manifest,
    expected: Option<u64>,
) -> Result<(), Rejection> {
    use proto::spec::Manifest;
    let Some(expected) = expected else {
        return Ok(());
    };
    let (id, there) = match manifest {
        Manifest::Sandbox { id, .. } => (id.as_str(), state.sandbox(id).map(|s| s.resource_version)),
        Manifest::Node { id, .. } => (id.as_str(), state.node(id).map(|n| n.resource_version)),
        Manifest::External { id, .. } => (id.as_str(), state.external(id).map(|e| e.resource_version)),
    };
    let there = there.unwrap_or(0);
    if there == expected {
        return Ok(());
    }
    Err(match expected {
        0 => Rejection::conflict(format!("{id} is there already")),
        _ => Rejection::stale(format!(
            "{id} has changed meanwhile: it has version {there}, not {expected}; read it and try again"
        )),
    })
}

fn answer(result: Result<Response, Rejection>) -> wire::Answer {
    use wire::answer::Answer;
    let answer = match result {
        Ok(response) => Answer::Accepted(wire::Accepted {
            outcome: response.outcome.into(),
            object: response
                .object
                .map(|object| wire::Object { object: Some(object) }),
        }),
        Err(rejection) => Answer::Rejected(wire::Rejected {
            code: rejection.code.into(),
            message: rejection.message,
            fields: rejection.fields,
        }),
    };
    wire::Answer { answer: Some(answer) }
}

#[cfg(test)]
mod tests;
