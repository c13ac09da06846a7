//! Manifests from files, folders and stdin, with all faults of all of them.
//! Called by every command that takes `-f`.

use crate::client::{identity, kind_name};
use crate::failure::Failure;
use proto::spec::Manifest;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A manifest and where it came from.
#[derive(Debug)]
pub(in crate::commands) struct Sourced {
    /// For messages: a path, or `stdin`.
    pub(in crate::commands) source: String,
    pub(in crate::commands) manifest: Manifest,
}

/// All manifests in the order of `names`; of a folder, in the order of its file names.
///
/// # Errors
/// [`Failure::Invalid`] with every fault of every file, or what could not be read.
pub(in crate::commands) fn read_all(names: &[PathBuf]) -> Result<Vec<Sourced>, Failure> {
    let mut texts = Vec::new();
    for name in names {
        if name.as_os_str() == "-" {
            texts.push(("stdin".to_owned(), read_stdin(name)?));
        } else if name.is_dir() {
            for path in manifests_of(name)? {
                texts.push((path.display().to_string(), read_file(&path)?));
            }
        } else {
            texts.push((name.display().to_string(), read_file(name)?));
        }
    }
    parse_all(texts)
}

fn parse_all(texts: Vec<(String, String)>) -> Result<Vec<Sourced>, Failure> {
    let mut faults = Vec::new();
    let mut sourced: Vec<Sourced> = Vec::new();
    let mut seen: BTreeMap<(&'static str, String), String> = BTreeMap::new();
    for (source, text) in texts {
        match proto::manifest::parse(&text) {
            Ok(manifests) => {
                for manifest in manifests {
                    let (kind, id) = identity(&manifest);
                    if let Some(other) = seen.insert((kind_name(kind), id.to_owned()), source.clone()) {
                        faults.push(format!(
                            "{source}: id: {}/{id} is in {other} already",
                            kind_name(kind)
                        ));
                    }
                    let source = source.clone();
                    sourced.push(Sourced { source, manifest });
                }
            }
            Err(found) => faults.extend(found.0.iter().map(|fault| format!("{source}: {fault}"))),
        }
    }
    if faults.is_empty() {
        return Ok(sourced);
    }
    Err(Failure::Invalid {
        count: faults.len(),
        faults: faults.join("\n"),
    })
}

fn read_stdin(name: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|source| Failure::ReadFile {
            path: name.to_owned(),
            source,
        })?;
    Ok(text)
}

fn read_file(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|source| Failure::ReadFile {
        path: path.to_owned(),
        source,
    })
}

fn manifests_of(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |source| Failure::ReadFile {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_manifest = path
            .extension()
            .and_then(|e| e.to_str())
            .is_some_and(|e| matches!(e, "yaml" | "yml" | "json"));
        if is_manifest && path.is_file() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(Failure::EmptyFolder {
            path: folder.to_owned(),
        });
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "{apiVersion: sandboxd.o/v1, kind: External, id: e1, spec: {node_id: n, external: x.test}}";
    const BAD: &str = "{apiVersion: sandboxd.o/v1, kind: External, id: e2, spec: {nod_id: n}}";

    fn texts(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn faults_of_all_files_are_shown_together_with_their_files() {
        let failure = parse_all(texts(&[("a.yaml", BAD), ("b.yaml", GOOD), ("c.yaml", BAD)])).unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("a.yaml: spec.nod_id"), "{text}");
        assert!(text.contains("c.yaml: spec.external"), "{text}");
        assert!(!text.contains("b.yaml"), "{text}");
        assert_eq!(failure.exit_code(), crate::failure::EXIT_INVALID);
    }

    #[test]
    fn one_object_in_two_files_is_refused() {
        let text = parse_all(texts(&[("a.yaml", GOOD), ("b.yaml", GOOD)]))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("b.yaml: id: external/e1 is in a.yaml already"),
            "{text}"
        );
    }

    #[test]
    fn folder_gives_its_manifests_by_name_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.json", "README.md"] {
            std::fs::write(folder.path().join(name), GOOD.replace("e1", &name[..1])).unwrap();
        }
        let found = read_all(&[folder.path().to_owned()]).unwrap();
        let ids: Vec<&str> = found.iter().map(|s| identity(&s.manifest).1).collect();
        assert_eq!(ids, ["a", "b"]);
    }

    #[test]
    fn folder_without_manifests_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let failure = read_all(&[folder.path().to_owned()]).unwrap_err();
        assert!(matches!(failure, Failure::EmptyFolder { .. }), "{failure}");
    }

    #[test]
    fn missing_file_names_its_path() {
        let failure = read_all(&[PathBuf::from("/nonexistent/x.yaml")]).unwrap_err();
        assert!(failure.to_string().contains("/nonexistent/x.yaml"), "{failure}");
    }
}
