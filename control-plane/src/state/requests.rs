//! Answers kept by request id: a command that comes again takes no effect again and gets the first answer.

use super::Write;
use super::stored;
use prost::Message;
use proto::units::Timestamp;
use proto::wire;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long an answer is kept at least, unless [`MAX_ANSWERS`] came meanwhile. Clients give a request up after
/// half a minute unless told otherwise; a few of those, for users who retry by hand.
pub const REMEMBERED: Duration = Duration::from_secs(300);
/// How many are kept at most: some 40 MB of memory, since they are kept encoded, and two minutes at the rate at which
/// sandboxes may be created.
pub const MAX_ANSWERS: usize = 131_072;

/// An answer in some tens of bytes; as a value it has room for a whole sandbox.
#[derive(Debug, Clone, PartialEq)]
struct Encoded(Box<[u8]>);

impl Encoded {
    fn of(answer: &wire::Answer) -> Self {
        Self(answer.encode_to_vec().into_boxed_slice())
    }

    fn decoded(&self) -> wire::Answer {
        // Nothing else than what was encoded here.
        wire::Answer::decode(&*self.0).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Requests {
    answers: BTreeMap<Arc<str>, (Timestamp, Encoded)>,
    by_age: BTreeSet<(Timestamp, Arc<str>)>,
}

impl Requests {
    /// The first answer, with its object reduced to what names it.
    pub(super) fn answer(&self, request_id: &str) -> Option<wire::Answer> {
        self.answers.get(request_id).map(|(_, answer)| answer.decoded())
    }

    pub(super) fn remember(&mut self, request_id: &str, at: Timestamp, answer: &wire::Answer) -> Write {
        let answer = named_only(answer);
        self.insert(request_id, at, &answer);
        stored::request(request_id, at, answer)
    }

    pub(super) fn insert(&mut self, request_id: &str, at: Timestamp, answer: &wire::Answer) {
        let id: Arc<str> = request_id.into();
        self.by_age.insert((at, id.clone()));
        self.answers.insert(id, (at, Encoded::of(answer)));
    }

    /// Forgets what is too old, and what is too much.
    pub(super) fn forget(&mut self, now: Timestamp) -> Vec<Write> {
        let mut forgotten = Vec::new();
        while let Some((at, id)) = self.by_age.first() {
            if now.since(*at) < REMEMBERED && self.answers.len() <= MAX_ANSWERS {
                break;
            }
            forgotten.push(stored::forgotten_request(id));
            self.answers.remove(id);
            self.by_age.pop_first();
        }
        forgotten
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Timestamp, wire::Answer)> {
        let answers = self.answers.iter();
        answers.map(|(id, (at, answer))| (id.as_ref(), *at, answer.decoded()))
    }

    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether both views hold the same.
    pub(super) fn is_consistent(&self) -> bool {
        let by_age = self
            .by_age
            .iter()
            .map(|(at, id)| (id, at))
            .collect::<BTreeMap<_, _>>();
        let answers = self
            .answers
            .iter()
            .map(|(id, (at, _))| (id, at))
            .collect::<BTreeMap<_, _>>();
        by_age == answers
    }
}

/// An object is kilobytes, and is there anyway; its name is enough to find it again.
fn named_only(answer: &wire::Answer) -> wire::Answer {
    use wire::answer::Answer;
    use wire::object::Object;
    let Some(Answer::Accepted(accepted)) = &answer.answer else {
        return answer.clone();
    };
    let object = accepted
        .object
        .as_ref()
        .and_then(|o| o.object.as_ref())
        .map(|object| match object {
            Object::Sandbox(s) => Object::Sandbox(wire::Sandbox {
                id: s.id.clone(),
                uid: s.uid,
                ..Default::default()
            }),
            Object::Node(n) => Object::Node(wire::Node {
                id: n.id.clone(),
                ..Default::default()
            }),
            Object::External(e) => Object::External(wire::External {
                id: e.id.clone(),
                ..Default::default()
            }),
        });
    wire::Answer {
        answer: Some(Answer::Accepted(wire::Accepted {
            outcome: accepted.outcome,
            object: object.map(|object| wire::Object { object: Some(object) }),
        })),
    }
}
