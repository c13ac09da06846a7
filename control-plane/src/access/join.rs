//! Lets machines in, and signs their certificates. A token for joining is used up by an entry of the log before
//! anything is signed, so that it lets in one machine however many replicas are asked at once; the same request, tried
//! again, gets the same answer. Nobody gets a certificate in the name of a machine that is there already, unless the
//! token was made for that one. Called by the `Access` service.

use super::{Caller, Denied, Gate, Who, audit};
use crate::api::{Fault, check_request_id};
use crate::clock;
use crate::raft::ProposeError;
use crate::security::{Security, SecurityError, Tls};
use identity::authority::{Authority, AuthorityError, PublicKey};
use identity::principal::Principal;
use identity::token::{Secret, SecretHash};
use proto::id::NodeId;
use proto::wire::join_request::Machine;
use proto::wire::{self, Grant, command::Op};

/// Why no certificate is signed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("this cluster speaks plain text, where certificates are good for nothing")]
    Insecure,
    #[error("this replica does not have the authority's key; ask another one, or give it --ca-key")]
    NoAuthority,
    #[error("{0} is part of the cluster already: make a token that is for it alone, with --for {0}")]
    Exists(String),
    #[error("{0} was deleted, and does not belong to the cluster any more")]
    Gone(String),
    #[error("token {token} has let in {by}, not {machine}")]
    Other {
        token: String,
        by: String,
        machine: String,
    },
    #[error(transparent)]
    Sign(#[from] AuthorityError),
    #[error("the authority can't be used: {0}")]
    Authority(#[from] SecurityError),
}

impl Gate {
    /// Lets a machine in that shows a token for joining.
    ///
    /// # Errors
    /// [`Fault`]; [`Fault::Denied`] where the token is not right, late where that happens again and again.
    pub async fn join(
        &self,
        caller: &Caller,
        request: wire::JoinRequest,
    ) -> Result<wire::JoinResponse, Fault> {
        let what = match &request.machine {
            Some(Machine::NodeId(id)) => format!("node/{id}"),
            Some(Machine::ReplicaId(id)) => format!("replica/{id}"),
            None => "nobody".to_owned(),
        };
        let shown = Caller {
            who: Who::Token {
                id: request.token_id.clone(),
                name: String::new(),
                role: super::Role::Viewer,
            },
            source: caller.source,
        };
        let joined = self.let_in(request).await;
        audit::note(&shown, "join", &what, &joined);
        match joined {
            Err(Fault::Denied(denied)) => Err(self.turn_away(caller.source, denied).await.into()),
            joined => joined,
        }
    }

    async fn let_in(&self, request: wire::JoinRequest) -> Result<wire::JoinResponse, Fault> {
        let leadership = self.replica().leadership().borrow().clone();
        let (tls, authority) = match self.signer() {
            Ok(signer) => signer,
            Err(JoinError::Insecure) => return self.number(request).await,
            Err(error) => return Err(error.into()),
        };
        if !leadership.is_self {
            return Err(Fault::NotLeader(leadership.leader));
        }
        self.replica().linearize().await?;
        check_request_id(&request.request_id)?;
        let secret = Secret::new(&request.token_id, &request.secret).map_err(Denied::Malformed)?;
        let _numbering = self.numbering().lock().await;
        let (principal, grant) = self.machine(&request, secret.id())?;
        self.check_token(&secret, &principal, grant)?;
        // What can't be signed must not use the token up.
        let now = clock::wall();
        let certificate = authority
            .sign(&public(request.key.clone()), &principal, &request.hosts, now)
            .map_err(JoinError::Sign)?;
        if let Principal::Replica(id) = principal {
            let again = self
                .replica()
                .replicated()
                .read()
                .token(secret.id())
                .is_some_and(|token| token.machine.is_some());
            let by = secret.id().to_owned();
            self.replica().give_number(id, by, again).await?;
        }
        self.redeem(request.request_id, &secret, &principal, grant)
            .await?;
        tracing::info!(machine = %principal, token = secret.id(), "a machine was let in");
        let replica = match principal {
            Principal::Replica(id) => Some(id),
            Principal::Node(_) => None,
        };
        Ok(wire::JoinResponse {
            certificate,
            authority: tls.authority_certificate()?,
            authority_key: replica.map(|_| authority.key()).unwrap_or_default(),
            replica_id: replica.unwrap_or_default(),
        })
    }

    /// Where nobody is asked who he is: a number for a replica that has none.
    async fn number(&self, request: wire::JoinRequest) -> Result<wire::JoinResponse, Fault> {
        check_request_id(&request.request_id)?;
        let Some(Machine::ReplicaId(asked)) = request.machine else {
            return Err(JoinError::Insecure.into());
        };
        let _numbering = self.numbering().lock().await;
        let id = if asked == 0 {
            self.replica().next_number()?
        } else {
            asked
        };
        self.replica().give_number(id, request.request_id, false).await?;
        Ok(wire::JoinResponse {
            replica_id: id,
            ..Default::default()
        })
    }

    /// Who joins. A replica that names no number gets the one that its token is for or has let in, or the next one.
    fn machine(&self, request: &wire::JoinRequest, token: &str) -> Result<(Principal, Grant), Fault> {
        match &request.machine {
            Some(Machine::NodeId(id)) => {
                let id = NodeId::new(id.clone()).map_err(|why| Fault::Invalid(format!("node_id: {why}")))?;
                Ok((Principal::Node(id), Grant::JoinNode))
            }
            None => Err(Fault::Invalid(
                "machine: say which node or replica joins".to_owned(),
            )),
            Some(Machine::ReplicaId(0)) => {
                let token = self.replica().replicated().read().token(token).cloned();
                let machine = token.and_then(|token| token.machine.clone().or(token.redeemed_by.clone()));
                let known = machine.and_then(|machine| Principal::from_uri(&format!("sandboxd://{machine}")));
                let id = match known {
                    Some(Principal::Replica(id)) => id,
                    Some(Principal::Node(_)) | None => self.replica().next_number()?,
                };
                Ok((Principal::Replica(id), Grant::JoinReplica))
            }
            Some(Machine::ReplicaId(id)) => Ok((Principal::Replica(*id), Grant::JoinReplica)),
        }
    }

    fn signer(&self) -> Result<(&Tls, Authority), JoinError> {
        let Security::Tls(tls) = self.security() else {
            return Err(JoinError::Insecure);
        };
        let authority = tls.authority()?.ok_or(JoinError::NoAuthority)?;
        Ok((tls, authority))
    }

    /// Whether the secret is the token's; all else is told once more, and for good, when it is used up.
    fn check_token(&self, secret: &Secret, principal: &Principal, grant: Grant) -> Result<(), Fault> {
        let state = self.replica().replicated().read();
        let token = state
            .token(secret.id())
            .filter(|token| SecretHash(token.hash).is_of(secret) && token.grant == grant)
            .ok_or(Denied::Unknown)?;
        if !token.holds(clock::now().max(state.now())) {
            return Err(Denied::Expired(token.id.clone()).into());
        }
        let exists = match principal {
            Principal::Node(id) => state.node(id).is_some(),
            Principal::Replica(id) => self.replica().cluster().replicas.iter().any(|r| r.id == *id),
        };
        if exists && token.machine.is_none() && token.redeemed_by.is_none() {
            return Err(JoinError::Exists(principal.to_string()).into());
        }
        Ok(())
    }

    async fn redeem(
        &self,
        request_id: String,
        secret: &Secret,
        principal: &Principal,
        grant: Grant,
    ) -> Result<(), Fault> {
        let machine = principal.to_string();
        let command = wire::Command {
            request_id,
            op: Some(Op::RedeemToken(wire::RedeemToken {
                id: secret.id().to_owned(),
                grant: grant.into(),
                machine: machine.clone(),
            })),
        };
        self.replica()
            .propose(command)
            .await
            .map_err(|error: ProposeError| Fault::from(error))?;
        // The answer may be the one to an earlier attempt: it must have been this machine's.
        let state = self.replica().replicated().read();
        let by = state
            .token(secret.id())
            .and_then(|token| token.redeemed_by.clone())
            .unwrap_or_default();
        if by != machine {
            let token = secret.id().to_owned();
            return Err(JoinError::Other { token, by, machine }.into());
        }
        Ok(())
    }

    /// Signs the next certificate of a node's agent.
    ///
    /// # Errors
    /// [`Fault::Join`], also where the node was deleted.
    pub fn renew(&self, caller: &Caller, request: &wire::RenewRequest) -> Result<wire::RenewResponse, Fault> {
        let renewed = self.sign_again(caller, request);
        audit::note(caller, "renew", &caller.who.to_string(), &renewed);
        renewed
    }

    fn sign_again(
        &self,
        caller: &Caller,
        request: &wire::RenewRequest,
    ) -> Result<wire::RenewResponse, Fault> {
        let (tls, authority) = self.signer()?;
        let Who::Node(id) = &caller.who else {
            return Err(Denied::NotNode(caller.who.to_string()).into());
        };
        let principal = Principal::Node(id.clone());
        if self.replica().replicated().read().node(id).is_none() {
            return Err(JoinError::Gone(principal.to_string()).into());
        }
        let certificate = authority
            .sign(&public(request.key.clone()), &principal, &[], clock::wall())
            .map_err(JoinError::Sign)?;
        Ok(wire::RenewResponse {
            certificate,
            authority: tls.authority_certificate()?,
        })
    }
}

fn public(key: Option<wire::PublicKey>) -> PublicKey {
    let wire::PublicKey { point, proof } = key.unwrap_or_default();
    PublicKey { point, proof }
}
