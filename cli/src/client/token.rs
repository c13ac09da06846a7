//! Tokens. A secret is made here and stays here: the cluster is told its hash, so that a request that has to be asked
//! again, of another replica, makes the same token.

use super::retry::Route;
use super::{Client, ClientError, request_id};
use identity::token::{JoinToken, Secret};
use proto::wire;
use proto::wire::access_client::AccessClient;
use std::time::Duration;

/// What a token shall be.
#[derive(Debug, Clone)]
pub struct NewToken {
    pub name: String,
    pub grant: wire::Grant,
    /// For joining: the only machine that may use it.
    pub machine: Option<String>,
    /// `None`: for ever.
    pub life: Option<Duration>,
}

impl Client {
    /// Makes a token; gives it as it is written, this once.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn create_token(&self, new: NewToken) -> Result<(wire::Token, String), ClientError> {
        let secret = Secret::generate().map_err(ClientError::Token)?;
        let life_ms = new
            .life
            .map_or(0, |life| u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        let request = wire::CreateTokenRequest {
            request_id: request_id(),
            id: secret.id().to_owned(),
            name: new.name,
            grant: new.grant.into(),
            hash: secret.hash().0.to_vec(),
            machine: new.machine.unwrap_or_default(),
            life_ms,
        };
        let created: wire::CreateTokenResponse = self
            .ask("create a token", Route::Leader, |service| {
                let request = request.clone();
                async move { AccessClient::new(service).create_token(request).await }
            })
            .await?;
        let text = match new.grant {
            wire::Grant::JoinNode | wire::Grant::JoinReplica => match created.authority.parse() {
                Ok(authority) => JoinToken { secret, authority }.to_string(),
                Err(_) => return Err(ClientError::NoJoining),
            },
            wire::Grant::Unspecified | wire::Grant::Viewer | wire::Grant::Operator | wire::Grant::Admin => {
                secret.to_string()
            }
        };
        Ok((created.token.unwrap_or_default(), text))
    }

    /// # Errors
    /// [`ClientError`]
    pub async fn tokens(&self) -> Result<Vec<wire::Token>, ClientError> {
        let listed: wire::ListTokensResponse = self
            .ask("list tokens", Route::Any, |service| async move {
                let request = wire::ListTokensRequest { stale: false };
                AccessClient::new(service).list_tokens(request).await
            })
            .await?;
        Ok(listed.tokens)
    }

    /// # Errors
    /// [`ClientError`]
    pub async fn revoke_token(&self, id: &str) -> Result<(), ClientError> {
        let request = wire::RevokeTokenRequest {
            request_id: request_id(),
            id: id.to_owned(),
        };
        self.ask(&format!("revoke token {id}"), Route::Leader, |service| {
            let request = request.clone();
            async move { AccessClient::new(service).revoke_token(request).await }
        })
        .await
        .map(|_: wire::RevokeTokenResponse| ())
    }
}
