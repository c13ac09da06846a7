//! Tokens as rows and documents: never with what is secret of them.

use super::Table;
use super::age::span;
use super::or_dash;
use proto::units::Timestamp;
use proto::wire::{self, Grant};
use serde::Serialize;

/// `{"items": [...]}`
#[must_use]
pub fn token_list(tokens: &[wire::Token]) -> super::Items<TokenDocument> {
    super::Items {
        items: tokens.iter().map(TokenDocument::from).collect(),
    }
}

#[derive(Debug, Serialize)]
pub struct TokenDocument {
    id: String,
    name: String,
    /// viewer, operator, admin, join-node or join-replica.
    grant: &'static str,
    machine: Option<String>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    last_used: Option<Timestamp>,
    redeemed_by: Option<String>,
}

impl From<&wire::Token> for TokenDocument {
    fn from(token: &wire::Token) -> Self {
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        let time = |ms: u64| (ms != 0).then_some(Timestamp(ms));
        Self {
            id: token.id.clone(),
            name: token.name.clone(),
            grant: grant(token.grant()),
            machine: text(&token.machine),
            created_at: Timestamp(token.created_at_ms),
            expires_at: time(token.expires_at_ms),
            last_used: time(token.last_used_ms),
            redeemed_by: text(&token.redeemed_by),
        }
    }
}

#[must_use]
pub fn token_table(tokens: &[wire::Token], now: Timestamp) -> String {
    let mut table = Table::new(vec![
        "ID",
        "NAME",
        "GRANT",
        "FOR",
        "AGE",
        "EXPIRES",
        "LAST-USED",
        "USED-BY",
    ]);
    for token in tokens.iter().map(TokenDocument::from) {
        let ends = match token.expires_at {
            None => "never".to_owned(),
            Some(end) if end <= now => "expired".to_owned(),
            Some(end) => format!("in {}", span(end.since(now))),
        };
        table.push(vec![
            token.id,
            or_dash(&token.name),
            token.grant.to_owned(),
            or_dash(&token.machine.unwrap_or_default()),
            span(now.since(token.created_at)),
            ends,
            token.last_used.map_or("never".to_owned(), |used| {
                format!("{} ago", span(now.since(used)))
            }),
            or_dash(&token.redeemed_by.unwrap_or_default()),
        ]);
    }
    table.render()
}

fn grant(grant: Grant) -> &'static str {
    match grant {
        Grant::Unspecified => "unknown",
        Grant::Viewer => "viewer",
        Grant::Operator => "operator",
        Grant::Admin => "admin",
        Grant::JoinNode => "join-node",
        Grant::JoinReplica => "join-replica",
    }
}
