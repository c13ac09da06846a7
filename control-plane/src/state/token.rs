//! What commands do to tokens: those of people, and those that let one machine in. The state keeps hashes; that one
//! is right is found out before anything is proposed, by `access`. A token that has expired is forgotten when the next
//! one is made, so that a machine that comes too late, or a second one, is told why it is refused.

use super::transaction::Transaction;
use super::{Rejection, Response};
use proto::convert::ConvertError;
use proto::units::Timestamp;
use proto::wire::rejected::Code;
use proto::wire::{self, Grant, Outcome};
use std::time::Duration;

/// People and machines to come, at one time. Each is some 200 bytes in memory.
pub const MAX_TOKENS: usize = 10_000;
/// Of a name and of the machine that a token is for.
const MAX_TEXT: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// No secret.
    pub id: String,
    pub name: String,
    pub grant: Grant,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// For joining: the only machine that may, as `node/ID` or `replica/N`.
    pub machine: Option<String>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// To the minute.
    pub last_used: Option<Timestamp>,
    /// For joining: who has.
    pub redeemed_by: Option<String>,
}

impl Token {
    /// Whether it has not expired.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }

    /// Whether it lets a machine in, and is nothing for people.
    #[must_use]
    pub fn is_for_joining(&self) -> bool {
        match self.grant {
            Grant::JoinNode | Grant::JoinReplica => true,
            Grant::Unspecified | Grant::Viewer | Grant::Operator | Grant::Admin => false,
        }
    }
}

pub(super) fn create(
    to: &mut Transaction<'_>,
    mut token: Token,
    life: Option<Duration>,
    first: bool,
) -> Result<Response, Rejection> {
    if first && to.state().had_tokens {
        return Err(Rejection::conflict("the cluster has had its first token already"));
    }
    let now = to.stamp.now;
    forget_expired(to, now);
    if to.state().tokens.contains_key(&token.id) {
        return Err(Rejection::conflict(format!(
            "token {} is there already",
            token.id
        )));
    }
    if to.state().tokens.len() >= MAX_TOKENS {
        return Err(Rejection::conflict(format!(
            "there are {MAX_TOKENS} tokens, which is the limit: revoke some first"
        )));
    }
    if token.is_for_joining() && life.is_none() {
        return Err(Rejection::new(
            Code::Invalid,
            "a token for joining must end at some time",
        ));
    }
    token.created_at = now;
    token.expires_at = life.map(|life| now.plus(life));
    token.last_used = None;
    token.redeemed_by = None;
    to.put_token(token);
    Ok(done(Outcome::Created))
}

fn forget_expired(to: &mut Transaction<'_>, now: Timestamp) {
    let expired = to.state().tokens.values().filter(|token| !token.holds(now));
    let expired: Vec<String> = expired.map(|token| token.id.clone()).collect();
    for id in expired {
        to.remove_token(&id);
    }
}

/// The last administrator can't be revoked: nobody could make another one.
pub(super) fn revoke(to: &mut Transaction<'_>, id: &str) -> Result<Response, Rejection> {
    let now = to.stamp.now;
    let Some(token) = to.state().tokens.get(id) else {
        return Err(Rejection::not_found("token", id));
    };
    let lasting_admin =
        |token: &Token| token.grant == Grant::Admin && token.holds(now) && token.expires_at.is_none();
    let mut others = to.state().tokens.values().filter(|other| other.id != id);
    if lasting_admin(token) && !others.any(|other| lasting_admin(other)) {
        return Err(Rejection::conflict(format!(
            "token {id} is the last one of an administrator that does not expire: make another one first"
        )));
    }
    to.remove_token(id);
    Ok(done(Outcome::Deleted))
}

pub(super) fn redeem(
    to: &mut Transaction<'_>,
    id: &str,
    grant: Grant,
    machine: &str,
) -> Result<Response, Rejection> {
    let Some(token) = to.state().tokens.get(id) else {
        return Err(Rejection::not_found("token", id));
    };
    if token.grant != grant || !token.is_for_joining() {
        return Err(Rejection::conflict(format!(
            "token {id} is not for joining as {machine}"
        )));
    }
    if let Some(by) = &token.redeemed_by {
        return Err(Rejection::conflict(format!(
            "token {id} was used by {by} already, and is good for one machine"
        )));
    }
    if !token.holds(to.stamp.now) {
        return Err(Rejection::conflict(format!("token {id} has expired")));
    }
    if let Some(bound) = token.machine.as_ref().filter(|bound| *bound != machine) {
        return Err(Rejection::conflict(format!(
            "token {id} is for {bound}, and not for {machine}"
        )));
    }
    let token = Token {
        redeemed_by: Some(machine.to_owned()),
        last_used: Some(to.stamp.now),
        ..token.as_ref().clone()
    };
    to.put_token(token);
    Ok(done(Outcome::Accepted))
}

/// Never goes back; of tokens that are gone, nothing is noted.
pub(super) fn note_uses(to: &mut Transaction<'_>, uses: Vec<(String, Timestamp)>) -> Response {
    for (id, at) in uses {
        let newer = to
            .state()
            .tokens
            .get(&id)
            .filter(|token| token.last_used < Some(at));
        if let Some(token) = newer {
            let token = Token {
                last_used: Some(at),
                ..token.as_ref().clone()
            };
            to.put_token(token);
        }
    }
    done(Outcome::Accepted)
}

fn done(outcome: Outcome) -> Response {
    Response {
        outcome,
        object: None,
    }
}

impl TryFrom<wire::Token> for Token {
    type Error = ConvertError;

    fn try_from(token: wire::Token) -> Result<Self, ConvertError> {
        let grant = token.grant();
        let malformed = |field, value: &str, why: &str| ConvertError::Malformed {
            field,
            value: value.to_owned(),
            why: why.to_owned(),
        };
        if grant == Grant::Unspecified {
            let (field, value) = ("grant", token.grant);
            return Err(ConvertError::Unknown { field, value });
        }
        if token.id.is_empty() || token.id.len() > MAX_TEXT {
            return Err(malformed("token.id", &token.id, "is no id of a token"));
        }
        for (field, text) in [("token.name", &token.name), ("token.machine", &token.machine)] {
            if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
                return Err(malformed(field, text, "is too long, or holds control characters"));
            }
        }
        let hash = token.hash.as_slice().try_into();
        let time = |ms| (ms != 0).then_some(Timestamp(ms));
        let text = |text: String| (!text.is_empty()).then_some(text);
        Ok(Self {
            hash: hash.map_err(|_| malformed("token.hash", &token.id, "is no SHA-256"))?,
            id: token.id,
            name: token.name,
            grant,
            machine: text(token.machine),
            created_at: Timestamp(token.created_at_ms),
            expires_at: time(token.expires_at_ms),
            last_used: time(token.last_used_ms),
            redeemed_by: text(token.redeemed_by),
        })
    }
}

impl From<&Token> for wire::Token {
    fn from(token: &Token) -> Self {
        let time = |at: Option<Timestamp>| at.map_or(0, |at| at.0);
        Self {
            id: token.id.clone(),
            name: token.name.clone(),
            grant: token.grant.into(),
            hash: token.hash.to_vec(),
            machine: token.machine.clone().unwrap_or_default(),
            created_at_ms: token.created_at.0,
            expires_at_ms: time(token.expires_at),
            last_used_ms: time(token.last_used),
            redeemed_by: token.redeemed_by.clone().unwrap_or_default(),
        }
    }
}
