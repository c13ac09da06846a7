//! What `sbxctl cp` copies from and to, as it is written: `PATH`, `-`, or `SANDBOX:[CONTAINER:]PATH`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A tar stream on standard input or output.
    Stream,
    Local(PathBuf),
    Remote {
        sandbox: String,
        container: Option<String>,
        /// Absolute.
        path: String,
    },
}

impl Place {
    /// As docker has it: what begins with `/` or `.` is a path of this machine, also with colons in it.
    ///
    /// # Errors
    /// A text for the user.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        let is_path = text.starts_with(['/', '.']);
        let Some((sandbox, rest)) = text.split_once(':').filter(|_| !is_path) else {
            return match text.is_empty() {
                true => Err("an empty path names nothing; for this folder write `.`".to_owned()),
                false => Ok(Self::Local(text.into())),
            };
        };
        let (container, path) = match rest.split_once(':') {
            Some((container, path)) if !container.contains('/') => (Some(container.to_owned()), path),
            Some(_) | None => (None, rest),
        };
        if sandbox.is_empty() || path.is_empty() || container.as_deref() == Some("") {
            return Err(format!("`{text}`: write SANDBOX:PATH or SANDBOX:CONTAINER:PATH"));
        }
        let sandbox = sandbox.strip_prefix("sandbox/").unwrap_or(sandbox);
        Ok(Self::Remote {
            sandbox: sandbox.to_owned(),
            container,
            path: match path.starts_with('/') {
                true => path.to_owned(),
                false => format!("/{path}"),
            },
        })
    }
}

/// The folder that a path is in, and its name there; a path that ends with `.`, `..` or `/.` is the folder itself,
/// whose contents are meant: `.`.
pub(super) fn split(path: &Path) -> (&Path, OsString) {
    let ends_with_dot = path.as_os_str().as_encoded_bytes().ends_with(b"/.");
    match path.file_name().filter(|_| !ends_with_dot) {
        Some(name) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            (parent.unwrap_or(Path::new(".")), name.to_owned())
        }
        None => (path, OsString::from(".")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_remote(text: &str, sandbox: &str, container: Option<&str>, path: &str) {
        let want = Place::Remote {
            sandbox: sandbox.to_owned(),
            container: container.map(str::to_owned),
            path: path.to_owned(),
        };
        assert_eq!(Place::parse(text), Ok(want));
    }

    #[test]
    fn places_are_told_apart_as_docker_does() {
        check_remote("web:/etc/x", "web", None, "/etc/x");
        check_remote("web:server:/etc/x", "web", Some("server"), "/etc/x");
        check_remote("sandbox/web:etc/x", "web", None, "/etc/x");
        check_remote("web:/odd:name", "web", None, "/odd:name");
        check_remote("web:server:/odd:name", "web", Some("server"), "/odd:name");
        for local in ["file", "./web:/x", "/a:b", "../x", "."] {
            assert_eq!(Place::parse(local), Ok(Place::Local(local.into())));
        }
        assert_eq!(Place::parse("-"), Ok(Place::Stream));
        for wrong in ["", ":/x", "web:", "web::/x", "web:server:"] {
            assert!(Place::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn local_paths_are_split_into_folder_and_name() {
        for (path, folder, name) in [
            ("x", ".", "x"),
            ("a/x", "a", "x"),
            ("/x/", "/", "x"),
            (".", ".", "."),
            ("a/.", "a/.", "."),
            ("a/..", "a/..", "."),
            ("/", "/", "."),
        ] {
            assert_eq!(split(Path::new(path)), (Path::new(folder), name.into()), "{path}");
        }
    }
}
