//! Objects as a person or a script reads them. Pure: renders values, prints nothing, reads no clock.
//!
//! | file | owns |
//! |---|---|
//! | `sandbox`, `node`, `external`, `cluster` | the rows of one kind each |
//! | `event` | what has happened, and one object with all that is known of it |
//! | `table` | aligned columns |
//! | `age` | time spans for people |
//!
//! The documents are `proto`'s, as the REST interface has them.

mod age;
mod cluster;
mod event;
mod external;
mod node;
mod sandbox;
mod table;
mod token;

pub use age::span;
pub use cluster::{cluster_table, members_table};
pub use event::{Happened, description, event_table};
pub use table::Table;
pub use token::{TokenDocument, token_list, token_table};

use crate::args::Format;
use crate::failure::Failure;
use proto::document::Document;
use proto::object::Kind;
use proto::units::Timestamp;
use proto::wire;
use serde::Serialize;

/// The column titles of a kind.
#[must_use]
pub fn header(kind: Kind, wide: bool) -> Vec<&'static str> {
    match kind {
        Kind::Sandbox => sandbox::header(wide),
        Kind::Node => node::header(wide),
        Kind::External => external::header(),
    }
}

/// One object's cells, in the order of [`header`].
///
/// # Errors
/// [`Failure::Unreadable`] where the object is not one this program knows.
pub fn row(object: &wire::Object, now: Timestamp, wide: bool) -> Result<Vec<String>, Failure> {
    Ok(match Document::try_from(object.clone())? {
        Document::Sandbox(sandbox) => sandbox::row(&sandbox, now, wide),
        Document::Node(node) => node::row(&node, now, wide),
        Document::External(external) => external::row(&external, now),
    })
}

/// `{"items": [...]}`
#[derive(Debug, Serialize)]
pub struct Items<T> {
    pub items: Vec<T>,
}

/// A document of its own, with its line end. Tables are not documents: they get JSON's form.
///
/// # Errors
/// [`Failure::Render`]
pub fn document(value: &impl Serialize, format: Format) -> Result<String, Failure> {
    match format {
        Format::Yaml => serde_yaml_ng::to_string(value).map_err(|e| Failure::Render(e.to_string())),
        Format::Json | Format::Table | Format::Wide => serde_json::to_string_pretty(value)
            .map(|text| text + "\n")
            .map_err(|e| Failure::Render(e.to_string())),
    }
}

/// One of a sequence of documents: a line of JSON, or YAML after a `---`.
///
/// # Errors
/// [`Failure::Render`]
pub fn streamed(value: &impl Serialize, format: Format) -> Result<String, Failure> {
    match format {
        Format::Yaml => Ok(format!("---\n{}", document(value, format)?)),
        Format::Json | Format::Table | Format::Wide => serde_json::to_string(value)
            .map(|text| text + "\n")
            .map_err(|e| Failure::Render(e.to_string())),
    }
}

/// `a=b,c=d`, or `-` for none.
fn labels(labels: &proto::spec::Labels) -> String {
    if labels.is_empty() {
        return "-".to_owned();
    }
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

#[cfg(test)]
mod tests;
