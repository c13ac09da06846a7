//! The check of every request. Finds out who asks by the connection's certificate or the request's token, and turns
//! away whoever may not. A replica that does not lead first makes sure that it knows what was acknowledged before: a
//! token that was revoked is refused by all replicas from the answer to that on.

use super::caller::{Caller, Role, Who};
use super::slowdown::Slowdown;
use super::table::{self, Rule};
use super::uses::Uses;
use super::{Denied, audit, first};
use crate::api::{grpc, rest};
use crate::clock;
use crate::listen::Origin;
use crate::raft::Replica;
use crate::security::{Security, SecurityError};
use crate::trace::{TRACE_ID, TRACEPARENT, Trace};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::middleware::Next;
use axum::response::Response;
use identity::principal::Principal;
use identity::token::{Secret, SecretHash};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tracing::Instrument;

/// Set by a replica on what it hands on to the leader.
pub const FORWARDED: HeaderName = HeaderName::from_static("x-sandboxd-forwarded");
/// The address that a request came from first; believed of replicas alone.
pub const SOURCE: HeaderName = HeaderName::from_static("x-sandboxd-source");
/// For a follower to know what was acknowledged before; without a quorum, what it knows itself must do.
const CATCH_UP: Duration = Duration::from_millis(500);

/// Before everything that is served to users and agents. Clones share.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    replica: Replica,
    security: Security,
    slowdown: Slowdown,
    uses: Uses,
    /// Replicas join one after another: the next free number is one's own until it is in the log.
    numbering: tokio::sync::Mutex<()>,
}

impl Gate {
    #[must_use]
    pub fn new(replica: Replica, security: Security) -> Self {
        Self(Arc::new(Inner {
            replica,
            security,
            slowdown: Slowdown::default(),
            uses: Uses::default(),
            numbering: tokio::sync::Mutex::default(),
        }))
    }

    pub(super) fn replica(&self) -> &Replica {
        &self.0.replica
    }

    pub(super) fn security(&self) -> &Security {
        &self.0.security
    }

    pub(super) fn uses(&self) -> &Uses {
        &self.0.uses
    }

    pub(super) fn numbering(&self) -> &tokio::sync::Mutex<()> {
        &self.0.numbering
    }

    /// What goes on beside requests: the first token, uses of tokens, certificates. Without end.
    ///
    /// # Errors
    /// [`SecurityError`] where the file of the first token can't be used, at once.
    pub fn attend(&self) -> Result<impl Future<Output = ()> + Send + 'static, SecurityError> {
        let inner = self.0.clone();
        let token = inner.security.first_token()?;
        let telling = inner
            .uses
            .clone()
            .tell(inner.replica.clone(), inner.security.dialer());
        let keeping = inner.security.clone().keep();
        let giving = async move {
            if let Some(token) = token {
                first::give(inner.replica.clone(), token).await;
            }
        };
        Ok(async move {
            tokio::join!(giving, telling, keeping);
        })
    }

    /// Late, where the source has failed before.
    pub(super) async fn turn_away(&self, source: IpAddr, denied: Denied) -> Denied {
        if !denied.is_failed_attempt() {
            return denied;
        }
        match self.0.slowdown.failed(source).await {
            Ok(()) => denied,
            Err(too_many) => too_many,
        }
    }

    /// Who asks, as far as connection and headers tell.
    async fn identify(&self, origin: &Origin, headers: &HeaderMap) -> (Caller, Option<Denied>) {
        let forwarded = headers.contains_key(FORWARDED);
        let from_replica = matches!(origin.principal, Some(Principal::Replica(_)));
        let mut source = origin.address;
        if forwarded && from_replica {
            let told = headers
                .get(SOURCE)
                .and_then(|value| value.to_str().ok()?.parse().ok());
            source = told.unwrap_or(source);
        }
        let caller = |who| Caller { who, source };
        let Security::Tls(_) = &self.0.security else {
            return (caller(Who::Anybody), None);
        };
        if let Some(given) = headers.get(header::AUTHORIZATION) {
            let token = given.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
            return match self.know(token.unwrap_or_default()).await {
                Ok(who) => (caller(who), None),
                Err(denied) => (caller(Who::Nobody), Some(denied)),
            };
        }
        match &origin.principal {
            Some(Principal::Node(id)) => (caller(Who::Node(id.clone())), None),
            // On behalf of somebody who should have shown a token.
            Some(Principal::Replica(_)) if forwarded => (caller(Who::Nobody), Some(Denied::NoToken)),
            Some(Principal::Replica(id)) => (caller(Who::Replica(*id)), None),
            None => (caller(Who::Nobody), Some(Denied::NoToken)),
        }
    }

    /// Whose token it is.
    async fn know(&self, text: &str) -> Result<Who, Denied> {
        let secret: Secret = text.parse().map_err(Denied::Malformed)?;
        self.catch_up().await;
        let now = clock::now();
        let who = {
            let state = self.0.replica.replicated().read();
            if !state.had_tokens() {
                return Err(Denied::NotYet);
            }
            let token = state
                .token(secret.id())
                .filter(|token| SecretHash(token.hash).is_of(&secret))
                .ok_or(Denied::Unknown)?;
            let id = token.id.clone();
            if !token.holds(now.max(state.now())) {
                return Err(Denied::Expired(id));
            }
            let Some(role) = Role::of(token.grant) else {
                return Err(Denied::ForJoining(id));
            };
            let name = token.name.clone();
            Who::Token { id, name, role }
        };
        self.0.uses.note(secret.id());
        Ok(who)
    }

    /// A leader knows all that it has acknowledged.
    async fn catch_up(&self) {
        let leadership = self.0.replica.leadership().borrow().clone();
        if !leadership.is_self && leadership.leader.is_some() {
            match timeout(CATCH_UP, self.0.replica.linearize()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "tokens are checked against what is known here"),
                Err(_) => tracing::debug!("tokens are checked against what is known here: no answer in time"),
            }
        }
    }
}

/// Whether the caller is what the rule asks for; `attempt` is what was wrong with what he has shown.
fn check(rule: Rule, caller: &Caller, attempt: Option<Denied>) -> Result<(), Denied> {
    let who = || caller.who.to_string();
    if caller.who == Who::Anybody {
        return Ok(());
    }
    match rule {
        Rule::Open | Rule::Joining => Ok(()),
        Rule::AtLeast(needs) => match (caller.role(), attempt) {
            (Some(has), _) if has >= needs => Ok(()),
            (_, Some(denied)) => Err(denied),
            (has, None) => Err(Denied::Role {
                who: who(),
                has,
                needs,
            }),
        },
        Rule::Node if matches!(caller.who, Who::Node(_)) => Ok(()),
        Rule::Replica if matches!(caller.who, Who::Replica(_)) => Ok(()),
        Rule::Node => Err(wrong(attempt).unwrap_or(Denied::NotNode(who()))),
        Rule::Replica => Err(wrong(attempt).unwrap_or(Denied::NotReplica(who()))),
    }
}

/// A machine needs no token: that it has none is nothing to tell.
fn wrong(attempt: Option<Denied>) -> Option<Denied> {
    attempt.filter(|denied| *denied != Denied::NoToken)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    content.is_some_and(|content| content.starts_with(b"application/grpc"))
}

/// Lets a request pass with its [`Caller`], or answers it; under its trace id, which it is told.
pub async fn admit(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let trace = Trace::of(request.headers(), clock::moment());
    request.headers_mut().insert(TRACEPARENT, trace.parent());
    let span = tracing::info_span!("request", trace_id = %trace.id());
    let answering = trace.answer(judge(gate, request, next)).instrument(span);
    let mut response = answering.await;
    response.headers_mut().insert(TRACE_ID, trace.id().value());
    response
}

async fn judge(gate: Gate, mut request: Request, next: Next) -> Response {
    let origin = request.extensions().get::<Origin>().cloned();
    let origin = origin.unwrap_or_else(Origin::unknown);
    let grpc = is_grpc(request.headers());
    let path = request.uri().path();
    let rule = if grpc {
        table::method_rule(path).unwrap_or(Rule::AtLeast(Role::Admin))
    } else {
        table::page_rule(request.method(), path)
    };
    let (caller, attempt) = match rule {
        Rule::Open | Rule::Joining => {
            let who = match gate.0.security {
                Security::Insecure => Who::Anybody,
                Security::Tls(_) => Who::Nobody,
            };
            let source = origin.address;
            (Caller { who, source }, None)
        }
        Rule::AtLeast(_) | Rule::Node | Rule::Replica => gate.identify(&origin, request.headers()).await,
    };
    if let Err(denied) = check(rule, &caller, attempt) {
        // A cluster that is being formed turns nobody away for good.
        if denied != Denied::NotYet {
            audit::denied(&caller, path, &denied);
        }
        let denied = gate.turn_away(caller.source, denied).await;
        return if grpc {
            grpc::refuse(denied)
        } else {
            rest::refuse(denied)
        };
    }
    // Only a replica hands on what it was asked; anybody else's word on that counts for nothing.
    if matches!(gate.0.security, Security::Tls(_)) && !matches!(origin.principal, Some(Principal::Replica(_)))
    {
        request.headers_mut().remove(FORWARDED);
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_who(who: &Who, rule: Rule, allowed: bool) {
        let caller = Caller {
            who: who.clone(),
            source: std::net::Ipv4Addr::LOCALHOST.into(),
        };
        assert_eq!(check(rule, &caller, None).is_ok(), allowed, "{who}: {rule:?}");
    }

    fn token(role: Role) -> Who {
        Who::Token {
            id: "t".to_owned(),
            name: String::new(),
            role,
        }
    }

    #[test]
    fn everybody_may_what_he_is_there_for_and_no_more() {
        use Role::{Admin, Operator, Viewer};
        let rules = [
            Rule::Open,
            Rule::Joining,
            Rule::AtLeast(Viewer),
            Rule::AtLeast(Operator),
            Rule::AtLeast(Admin),
            Rule::Node,
            Rule::Replica,
        ];
        let node = Who::Node("n".parse().expect("an id"));
        let table = [
            (Who::Anybody, [true; 7]),
            (Who::Nobody, [true, true, false, false, false, false, false]),
            (token(Viewer), [true, true, true, false, false, false, false]),
            (token(Operator), [true, true, true, true, false, false, false]),
            (token(Admin), [true, true, true, true, true, false, false]),
            (node, [true, true, false, false, false, true, false]),
            (Who::Replica(1), [true, true, true, true, true, false, true]),
        ];
        for (who, expected) in table {
            for (rule, allowed) in rules.into_iter().zip(expected) {
                check_who(&who, rule, allowed);
            }
        }
    }
}
