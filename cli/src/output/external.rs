//! An external as row and document.

use super::sandbox::Metadata;
use super::span;
use proto::convert::ConvertError;
use proto::object::External;
use proto::spec::ExternalSpec;
use proto::units::Timestamp;
use proto::wire;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct ExternalView {
    id: String,
    metadata: Metadata,
    spec: ExternalSpec,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl TryFrom<wire::External> for ExternalView {
    type Error = ConvertError;

    fn try_from(wire: wire::External) -> Result<Self, ConvertError> {
        let external = External::try_from(wire)?;
        Ok(Self {
            id: external.id.to_string(),
            metadata: Metadata {
                labels: external.labels,
            },
            spec: external.spec,
            created_at: external.created_at,
            updated_at: external.updated_at,
        })
    }
}

pub(super) fn header() -> Vec<&'static str> {
    vec!["ID", "NODE", "EXTERNAL", "AGE"]
}

impl ExternalView {
    pub(super) fn row(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.id.clone(),
            self.spec.node_id.to_string(),
            self.spec.external.clone(),
            span(now.since(self.created_at)),
        ]
    }
}
