//! What a command is about: `KIND ID...` or `KIND/ID...` as a user writes it.

use crate::client::kind_name;
use proto::id::{ExternalId, NodeId, SandboxId};
use proto::object::Kind;
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub kind: Kind,
    pub id: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", kind_name(self.kind), self.id)
    }
}

/// What `get` takes: a kind of objects, or the cluster itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GetKind {
    Objects(Kind),
    /// `KIND/ID`
    One(Target),
    Cluster,
}

impl FromStr for GetKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cluster" | "replicas" => Ok(Self::Cluster),
            _ if text.contains('/') => text.parse().map(Self::One),
            _ => parse_kind(text).map(Self::Objects),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    /// `KIND/ID`
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, id) = text
            .split_once('/')
            .ok_or_else(|| format!("`{text}`: write KIND/ID, such as sandbox/web"))?;
        Self::new(parse_kind(kind)?, id)
    }
}

impl Target {
    /// # Errors
    /// A text for the user where `id` is no identifier.
    pub fn new(kind: Kind, id: &str) -> Result<Self, String> {
        let checked = match kind {
            Kind::Sandbox => SandboxId::new(id).map(drop),
            Kind::Node => NodeId::new(id).map(drop),
            Kind::External => ExternalId::new(id).map(drop),
        };
        checked.map_err(|e| format!("the id `{id}` {e}"))?;
        Ok(Self {
            kind,
            id: id.to_owned(),
        })
    }

    /// `KIND ID...` or `KIND/ID...`.
    ///
    /// # Errors
    /// A text for the user.
    pub fn parse_all(words: &[String]) -> Result<Vec<Self>, String> {
        let Some((first, ids)) = words.split_first() else {
            return Ok(Vec::new());
        };
        if first.contains('/') {
            return words.iter().map(|word| word.parse()).collect();
        }
        let kind = parse_kind(first)?;
        if ids.is_empty() {
            return Err(format!("which {}? Write its id behind it", kind_name(kind)));
        }
        ids.iter().map(|id| Self::new(kind, id)).collect()
    }
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    match text.to_ascii_lowercase().as_str() {
        "sandboxes" | "sandbox" | "sbx" => Ok(Kind::Sandbox),
        "nodes" | "node" => Ok(Kind::Node),
        "externals" | "external" | "ext" => Ok(Kind::External),
        _ => Err(format!(
            "`{text}` is no kind of object: sandbox (sbx), node or external (ext)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &[&str], expected: Result<&[&str], &str>) {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        match (Target::parse_all(&words), expected) {
            (Ok(targets), Ok(expected)) => {
                let shown: Vec<String> = targets.iter().map(ToString::to_string).collect();
                assert_eq!(shown, expected);
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (got, expected) => panic!("{got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn targets_in_both_forms_and_with_aliases_are_understood() {
        check(&["sbx", "a", "b"], Ok(&["sandbox/a", "sandbox/b"]));
        check(&["Sandboxes/a", "node/n1"], Ok(&["sandbox/a", "node/n1"]));
        check(&["ext", "e"], Ok(&["external/e"]));
        check(&[], Ok(&[]));
    }

    #[test]
    fn wrong_targets_are_refused_with_a_reason() {
        check(&["sandbox"], Err("which sandbox?"));
        check(&["pod", "a"], Err("no kind"));
        check(&["sandbox/a", "b"], Err("write KIND/ID"));
        check(&["sandbox/a/b"], Err("the id `a/b`"));
        check(&["sandbox/"], Err("must not be empty"));
    }
}
