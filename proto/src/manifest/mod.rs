//! A user's text, YAML or JSON, to [`crate::spec`]: every rule of the contract that one manifest can be
//! judged by, and all faults of it together, each with its path.
//!
//! | file | owns |
//! |---|---|
//! | `fault` | what is wrong and where |
//! | `reader` | walking a tree of values: paths, types, unknown fields |
//! | `document` | the kinds of documents, field by field |
//! | `rule` | the forms of single values: labels, paths, blocks, options |
//! | `check` | rules that span fields; also applied to what arrives over the wire |
//!
//! Pure: reads no file. Called by the command line before anything is sent, by the API for REST bodies.

mod check;
mod document;
mod fault;
mod reader;
mod rule;

pub use check::check;
pub use fault::{Fault, Faults};
pub use rule::{
    check_label, check_node_address, parse_cidr, parse_egress_rule, parse_security_opt, parse_selector,
    parse_tmpfs_options,
};

use crate::spec::Manifest;
use reader::Path;
use serde::Deserialize;
use serde_yaml_ng::Value;

/// All documents of a text, in their order; empty documents are passed over.
///
/// # Errors
/// Every fault of every document.
pub fn parse(text: &str) -> Result<Vec<Manifest>, Faults> {
    let mut faults = Faults::default();
    let mut manifests = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for (index, deserializer) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let document = index + 1;
        let value = match Value::deserialize(deserializer) {
            Ok(value) => value,
            Err(error) => {
                faults.push(document, &Path::root(), format!("not valid YAML: {error}"));
                break; // the parser can't find the next document after a syntax error
            }
        };
        if value.is_null() {
            continue;
        }
        let Some(manifest) = document::read(&value, document, &mut faults) else {
            continue;
        };
        let identity = match &manifest {
            Manifest::Sandbox { id, .. } => ("Sandbox", id.to_string()),
            Manifest::Node { id, .. } => ("Node", id.to_string()),
            Manifest::External { id, .. } => ("External", id.to_string()),
        };
        if !seen.insert(identity.clone()) {
            let message = format!("a second {} `{}` in one file", identity.0, identity.1);
            faults.push(document, &Path::root().field("id"), message);
        }
        manifests.push(manifest);
    }
    if faults.is_empty() && manifests.is_empty() {
        faults.push(
            1,
            &Path::root(),
            "no document: begin with apiVersion: sandboxd.o/v1".to_owned(),
        );
    }
    if faults.is_empty() {
        Ok(manifests)
    } else {
        Err(faults)
    }
}
