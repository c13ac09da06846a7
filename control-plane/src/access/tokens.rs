//! Makes, lists and revokes tokens. Called by the `Access` service.

use super::{Caller, Gate, audit};
use crate::api::{Fault, check_request_id};
use crate::raft::ProposeError;
use crate::security::Security;
use identity::principal::Principal;
use identity::token::{SecretHash, is_id};
use proto::convert::ConvertError;
use proto::wire::{self, Grant, command::Op};
use std::time::Duration;

/// A machine is let in within days of somebody's decision, or not at all.
const LONGEST_JOIN_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl Gate {
    /// Makes a token known by its hash; gives it as it is kept, and the fingerprint of the authority.
    ///
    /// # Errors
    /// [`Fault`]
    pub async fn create_token(
        &self,
        caller: &Caller,
        request: wire::CreateTokenRequest,
    ) -> Result<wire::CreateTokenResponse, Fault> {
        let what = format!("token/{} ({})", request.id, request.name);
        let created = self.create(request).await;
        audit::note(caller, "create", &what, &created);
        created
    }

    async fn create(&self, request: wire::CreateTokenRequest) -> Result<wire::CreateTokenResponse, Fault> {
        check_request_id(&request.request_id)?;
        check(&request)?;
        let id = request.id.clone();
        let command = wire::Command {
            request_id: request.request_id,
            op: Some(Op::CreateToken(wire::CreateToken {
                token: Some(wire::Token {
                    id: request.id,
                    name: request.name,
                    grant: request.grant,
                    hash: request.hash,
                    machine: request.machine,
                    ..Default::default()
                }),
                life_ms: request.life_ms,
                first: false,
            })),
        };
        self.replica().propose(command).await?;
        let state = self.replica().replicated().read();
        let authority = match self.security() {
            Security::Insecure => String::new(),
            Security::Tls(tls) => tls.credentials().authority().to_string(),
        };
        Ok(wire::CreateTokenResponse {
            token: state.token(&id).map(|token| shown(token)),
            authority,
        })
    }

    /// All tokens that have not expired, without what is secret of them.
    ///
    /// # Errors
    /// [`Fault::Read`] where no quorum answers.
    pub async fn list_tokens(&self, stale: bool) -> Result<Vec<wire::Token>, Fault> {
        if !stale {
            self.replica().linearize().await?;
        }
        let state = self.replica().replicated().read();
        let tokens = state.tokens().map(|token| {
            let mut token = shown(token);
            // Seen here, and not told yet.
            token.last_used_ms = token
                .last_used_ms
                .max(self.uses().of(&token.id).unwrap_or_default());
            token
        });
        Ok(tokens.collect())
    }

    /// From the answer on, no replica accepts it.
    ///
    /// # Errors
    /// [`Fault`]
    pub async fn revoke_token(
        &self,
        caller: &Caller,
        request: wire::RevokeTokenRequest,
    ) -> Result<(), Fault> {
        let what = format!("token/{}", request.id);
        let revoked = self.revoke(request).await;
        audit::note(caller, "revoke", &what, &revoked);
        revoked
    }

    async fn revoke(&self, request: wire::RevokeTokenRequest) -> Result<(), Fault> {
        check_request_id(&request.request_id)?;
        let command = wire::Command {
            request_id: request.request_id,
            op: Some(Op::RevokeToken(wire::RevokeToken { id: request.id })),
        };
        Ok(self.replica().propose(command).await.map(drop)?)
    }

    /// Puts the uses that another replica has seen into the log.
    ///
    /// # Errors
    /// [`Fault`]
    pub async fn note_uses(&self, uses: Vec<wire::TokenUse>) -> Result<(), Fault> {
        super::uses::propose(self.replica(), uses)
            .await
            .map_err(ProposeError::into)
    }
}

fn check(request: &wire::CreateTokenRequest) -> Result<(), Fault> {
    let invalid = |why: &str| Err(Fault::Invalid(why.to_owned()));
    if !is_id(&request.id) {
        return invalid("id: is no id of a token");
    }
    let Ok(hash) = <[u8; 32]>::try_from(request.hash.as_slice()) else {
        return invalid("hash: must be the SHA-256 of the secret");
    };
    if let Err(why) = SecretHash(hash).refuse_known() {
        return Err(Fault::Invalid(format!("hash: the token {why}")));
    }
    let life = Duration::from_millis(request.life_ms);
    let bound = Principal::from_uri(&format!("sandboxd://{}", request.machine));
    match (request.grant(), bound) {
        (Grant::Unspecified, _) => {
            let (field, value) = ("grant", request.grant);
            Err(ConvertError::Unknown { field, value }.into())
        }
        (Grant::Viewer | Grant::Operator | Grant::Admin, _) if request.machine.is_empty() => Ok(()),
        (Grant::Viewer | Grant::Operator | Grant::Admin, _) => {
            invalid("machine: only a token for joining is for a machine")
        }
        (Grant::JoinNode | Grant::JoinReplica, _) if life.is_zero() || life > LONGEST_JOIN_LIFE => {
            invalid("life: a token for joining holds for a week at most")
        }
        (Grant::JoinNode, Some(Principal::Node(_))) | (Grant::JoinReplica, Some(Principal::Replica(_))) => {
            Ok(())
        }
        (Grant::JoinNode | Grant::JoinReplica, None) if request.machine.is_empty() => Ok(()),
        (Grant::JoinNode, _) => invalid("machine: write node/ID"),
        (Grant::JoinReplica, _) => invalid("machine: write replica/N"),
    }
}

fn shown(token: &crate::state::Token) -> wire::Token {
    wire::Token {
        hash: Vec::new(),
        ..token.into()
    }
}
