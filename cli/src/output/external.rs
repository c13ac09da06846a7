//! An external as a row.

use super::span;
use proto::document::ExternalDocument;
use proto::units::Timestamp;

pub(super) fn header() -> Vec<&'static str> {
    vec!["ID", "NODE", "EXTERNAL", "AGE"]
}

pub(super) fn row(external: &ExternalDocument, now: Timestamp) -> Vec<String> {
    vec![
        external.id.clone(),
        external.spec.node_id.to_string(),
        external.spec.external.clone(),
        span(now.since(external.created_at)),
    ]
}
