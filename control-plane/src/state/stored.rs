//! Keys and values of the state on disk and in snapshots. A key is one byte for the kind and the object's
//! name; a value is protobuf. What was written once is read for ever: see the golden files.

use super::level::Level;
use super::replica::ReplicaNumber;
use super::token::Token;
use super::{Change, HostPort, State, Write};
use prost::Message;
use proto::convert::ConvertError;
use proto::id::{NodeId, Uid};
use proto::object::{External, Node, Sandbox};
use proto::policy::Policy;
use proto::status::AssignedPort;
use proto::units::Timestamp;
use proto::wire;
use std::sync::Arc;

const META: u8 = b'm';
const SANDBOX: u8 = b's';
const NODE: u8 = b'n';
const EXTERNAL: u8 = b'e';
const REQUEST: u8 = b'r';
const PORT: u8 = b'p';
const TOKEN: u8 = b't';
const REPLICA: u8 = b'i';

/// Why records are not a state of ours. The key is shown as text.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the stored record `{key}` can't be decoded: {source}")]
    Decode { key: String, source: prost::DecodeError },
    #[error("the stored record `{key}` breaks a rule: {source}")]
    Convert { key: String, source: ConvertError },
    #[error("the stored record `{key}` holds what belongs under `{belongs}`")]
    Misplaced { key: String, belongs: String },
    #[error("sandbox {uid} is stored, although only {last_uid} were made: its uid could be given out again")]
    UnknownUid { uid: Uid, last_uid: u64 },
    #[error(
        "the stored record `{key}` is of no kind that this version knows; was it written by a newer one?"
    )]
    Unknown { key: String },
}

fn key(kind: u8, name: &[u8]) -> Vec<u8> {
    [&[kind], name].concat()
}

/// Ordered as the uids are.
fn sandbox_key(sandbox: &Sandbox) -> Vec<u8> {
    key(SANDBOX, &sandbox.uid.0.to_be_bytes())
}

fn node_key(node: &Node) -> Vec<u8> {
    key(NODE, node.id.as_str().as_bytes())
}

fn external_key(external: &External) -> Vec<u8> {
    key(EXTERNAL, external.id.as_str().as_bytes())
}

fn request_key(request_id: &str) -> Vec<u8> {
    key(REQUEST, request_id.as_bytes())
}

pub(super) fn meta(state: &State) -> Write {
    let meta = wire::StateMeta {
        now_ms: state.now.0,
        last_uid: state.last_uid,
        policy: (state.policy != Policy::default()).then(|| state.policy.into()),
        had_tokens: state.had_tokens,
        level: state.level.0,
    };
    Write {
        key: vec![META],
        value: Some(meta.encode_to_vec()),
    }
}

/// Under this key is what [`level_of`] reads.
pub(crate) const LEVEL_KEY: &[u8] = &[META];

/// The level of the state whose record this is, which may be of a newer version.
pub(crate) fn level_of(record: &[u8]) -> Result<Level, prost::DecodeError> {
    Ok(Level(wire::StateMeta::decode(record)?.level))
}

pub(super) fn request(request_id: &str, at: Timestamp, answer: wire::Answer) -> Write {
    let answered = wire::AnsweredRequest {
        request_id: request_id.to_owned(),
        at_ms: at.0,
        answer: Some(answer),
    };
    Write {
        key: request_key(request_id),
        value: Some(answered.encode_to_vec()),
    }
}

pub(super) fn forgotten_request(request_id: &str) -> Write {
    Write {
        key: request_key(request_id),
        value: None,
    }
}

/// Ends the node's id, which has no such byte, so that one can't be another with a port.
const END_OF_NODE: u8 = 0;

fn port_key(node: &NodeId, (protocol, port): HostPort) -> Vec<u8> {
    let mut name = node.as_str().as_bytes().to_vec();
    name.push(END_OF_NODE);
    name.extend_from_slice(protocol.as_str().as_bytes());
    name.extend_from_slice(&port.to_be_bytes());
    key(PORT, &name)
}

pub(super) fn released_port(node: &NodeId, (protocol, port): HostPort, since: Timestamp) -> Write {
    let released = wire::ReleasedPort {
        node_id: node.to_string(),
        protocol: wire::Protocol::from(protocol).into(),
        port: port.into(),
        at_ms: since.0,
    };
    Write {
        key: port_key(node, (protocol, port)),
        value: Some(released.encode_to_vec()),
    }
}

pub(super) fn free_port(node: &NodeId, port: HostPort) -> Write {
    Write {
        key: port_key(node, port),
        value: None,
    }
}

fn token_key(id: &str) -> Vec<u8> {
    key(TOKEN, id.as_bytes())
}

pub(super) fn token(token: &Token) -> Write {
    Write {
        key: token_key(&token.id),
        value: Some(wire::Token::from(token).encode_to_vec()),
    }
}

pub(super) fn revoked_token(id: &str) -> Write {
    Write {
        key: token_key(id),
        value: None,
    }
}

pub(super) fn replica_number(number: &ReplicaNumber) -> Write {
    Write {
        key: key(REPLICA, &number.id.to_be_bytes()),
        value: Some(wire::ReplicaNumber::from(number).encode_to_vec()),
    }
}

/// `None` where nothing is stored: a replaced sandbox that its id stands for again was there all the time.
pub(super) fn change(change: &Change) -> Option<Write> {
    fn write<T>(
        before: Option<&T>,
        after: Option<&T>,
        key: impl Fn(&T) -> Vec<u8>,
        value: impl Fn(&T) -> Vec<u8>,
    ) -> Option<Write> {
        Some(Write {
            key: key(after.or(before)?),
            value: after.map(value),
        })
    }
    match change {
        Change::Sandbox { before, after, .. } => {
            write(before.as_deref(), after.as_deref(), sandbox_key, |s| {
                let events = s.events.iter().map(Into::into).collect();
                wire::Sandbox { events, ..s.into() }.encode_to_vec()
            })
        }
        Change::Node { before, after } => write(before.as_deref(), after.as_deref(), node_key, |n| {
            let events = n.events.iter().map(Into::into).collect();
            wire::Node { events, ..n.into() }.encode_to_vec()
        }),
        Change::External { before, after } => write(before.as_deref(), after.as_deref(), external_key, |e| {
            wire::External::from(e).encode_to_vec()
        }),
    }
}

/// All that a state has on disk, in an order that follows from it.
pub(super) fn records(state: &State) -> impl Iterator<Item = Write> + use<'_> {
    let sandboxes = state.sandboxes.values().map(|sandbox| Change::Sandbox {
        before: None,
        after: Some(sandbox.clone()),
        replaced: false,
    });
    let nodes = state.nodes.values().map(|node| Change::Node {
        before: None,
        after: Some(node.clone()),
    });
    let externals = state.externals.values().map(|external| Change::External {
        before: None,
        after: Some(external.clone()),
    });
    let objects = sandboxes.chain(nodes).chain(externals);
    std::iter::once(meta(state))
        .chain(objects.filter_map(|object| change(&object)))
        .chain(
            state
                .requests
                .iter()
                .map(|(id, at, answer)| request(id, at, answer)),
        )
        .chain(
            state
                .resting
                .iter()
                .map(|(node, port, since)| released_port(node, port, since)),
        )
        .chain(state.tokens.values().map(|one| token(one)))
        .chain(state.replicas.values().map(replica_number))
}

pub(super) fn load<K, V>(records: impl Iterator<Item = (K, V)>) -> Result<State, LoadError>
where
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let mut state = State::default();
    for (key, value) in records {
        let belongs = load_record(&mut state, key.as_ref(), value.as_ref())?;
        if belongs != key.as_ref() {
            return Err(LoadError::Misplaced {
                key: key.as_ref().escape_ascii().to_string(),
                belongs: belongs.escape_ascii().to_string(),
            });
        }
    }
    let last_uid = state.last_uid;
    match state.sandboxes.last_key_value() {
        Some((&uid, _)) if uid.0 > last_uid => Err(LoadError::UnknownUid { uid, last_uid }),
        Some(_) | None => Ok(state),
    }
}

/// Takes it in; gives the key under which it should be.
fn load_record(state: &mut State, key: &[u8], value: &[u8]) -> Result<Vec<u8>, LoadError> {
    let name = || key.escape_ascii().to_string();
    let decode = |source| LoadError::Decode { key: name(), source };
    let convert = |source| LoadError::Convert { key: name(), source };
    Ok(match key.first() {
        Some(&META) => {
            let meta = wire::StateMeta::decode(value).map_err(decode)?;
            state.now = Timestamp(meta.now_ms);
            state.last_uid = meta.last_uid;
            state.policy = meta.policy.unwrap_or_default().into();
            state.had_tokens = meta.had_tokens;
            state.level = Level(meta.level);
            vec![META]
        }
        Some(&SANDBOX) => {
            let sandbox = wire::Sandbox::decode(value).map_err(decode)?;
            let sandbox = Arc::new(Sandbox::try_from(sandbox).map_err(convert)?);
            state.insert_sandbox(Arc::clone(&sandbox));
            sandbox_key(&sandbox)
        }
        Some(&NODE) => {
            let node = wire::Node::decode(value).map_err(decode)?;
            let node = Arc::new(Node::try_from(node).map_err(convert)?);
            state.nodes.insert(node.id.clone(), Arc::clone(&node));
            node_key(&node)
        }
        Some(&EXTERNAL) => {
            let external = wire::External::decode(value).map_err(decode)?;
            let external = Arc::new(External::try_from(external).map_err(convert)?);
            state.insert_external(Arc::clone(&external));
            external_key(&external)
        }
        Some(&REQUEST) => {
            let answered = wire::AnsweredRequest::decode(value).map_err(decode)?;
            let answer = answered.answer.unwrap_or_default();
            state
                .requests
                .insert(&answered.request_id, Timestamp(answered.at_ms), &answer);
            request_key(&answered.request_id)
        }
        Some(&TOKEN) => {
            let token = wire::Token::decode(value).map_err(decode)?;
            let token = Token::try_from(token).map_err(convert)?;
            let key = token_key(&token.id);
            state.tokens.insert(token.id.clone(), Arc::new(token));
            key
        }
        Some(&REPLICA) => {
            let number = wire::ReplicaNumber::decode(value).map_err(decode)?;
            let number = ReplicaNumber::from(number);
            let key = self::key(REPLICA, &number.id.to_be_bytes());
            state.replicas.insert(number.id, number);
            key
        }
        Some(&PORT) => {
            let released = wire::ReleasedPort::decode(value).map_err(decode)?;
            // An assigned port has the same fields: its conversion checks them.
            let port = AssignedPort::try_from(wire::AssignedPort {
                host_port: released.port,
                container_port: 0,
                protocol: released.protocol,
            });
            let port = port.map_err(convert)?;
            let node = released.node_id;
            let node = node.parse().map_err(|source| {
                let field = "node_id";
                convert(ConvertError::Id {
                    field,
                    value: node,
                    source,
                })
            })?;
            let since = Timestamp(released.at_ms);
            let port = (port.protocol, port.host_port);
            state.resting.insert(&node, port, since);
            port_key(&node, port)
        }
        Some(_) | None => return Err(LoadError::Unknown { key: name() }),
    })
}
