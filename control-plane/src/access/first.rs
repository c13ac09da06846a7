//! Gives a new cluster its first token: the administrator's, made by `sbxctl cluster init`, of which replicas have the
//! hash in a file. Once: a cluster whose tokens were all revoked does not get it back. Called by `serve`.

use crate::raft::{ProposeError, Replica};
use crate::security::FirstToken;
use proto::wire::{self, Grant, command::Op};
use std::time::Duration;

/// Before another attempt: a quorum was lost meanwhile.
const PAUSE: Duration = Duration::from_millis(200);

/// Returns once the cluster has had a token.
pub(crate) async fn give(replica: Replica, token: FirstToken) {
    let mut leadership = replica.leadership();
    loop {
        if leadership.wait_for(|now| now.is_self).await.is_err() {
            return;
        }
        if replica.linearize().await.is_err() {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        if replica.replicated().read().had_tokens() {
            return;
        }
        let command = wire::Command {
            request_id: String::new(),
            op: Some(Op::CreateToken(wire::CreateToken {
                token: Some(wire::Token {
                    id: token.id.clone(),
                    name: "first".to_owned(),
                    grant: Grant::Admin.into(),
                    hash: token.hash.0.to_vec(),
                    ..Default::default()
                }),
                life_ms: 0,
                first: true,
            })),
        };
        match replica.propose(command).await {
            Ok(_) => {
                tracing::info!(token = token.id, "the cluster has its first token");
                return;
            }
            // Another leader was first.
            Err(ProposeError::Rejected(_)) => return,
            Err(error) => {
                tracing::debug!(%error, "the first token is not in the log yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
