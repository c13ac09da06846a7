//! Where the first name of a stream goes, by the rules that people know of cp and docker: into a directory that is
//! there, under its own name; else it takes the name that was asked for.

use crate::TreeError;
use crate::folder::{Folder, is};
use nix::errno::Errno;
use nix::sys::stat::SFlag;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// The place that a stream is unpacked to.
#[derive(Debug)]
pub struct Target {
    pub(crate) base: Folder,
    pub(crate) rule: Rule,
    /// As it was asked for.
    path: PathBuf,
}

/// What the names of a stream are in `base`.
#[derive(Debug)]
pub(crate) enum Rule {
    /// The same.
    Into,
    /// There is one first name, which becomes this one.
    As { name: OsString, first: Option<OsString> },
}

impl Target {
    /// `path` as seen from `root`, which for `..` and links is `/`.
    ///
    /// # Errors
    /// [`TreeError::NoParent`], [`TreeError::NoFolder`] where it ends with a slash, else [`TreeError::File`].
    pub fn inside(root: &Folder, path: &Path) -> Result<Self, TreeError> {
        Self::found(path, |path| root.inside(path))
    }

    /// `path` as this process sees it.
    ///
    /// # Errors
    /// As of [`Self::inside`].
    pub fn at(path: &Path) -> Result<Self, TreeError> {
        Self::found(path, Folder::open)
    }

    fn found(path: &Path, open: impl Fn(&Path) -> Result<Folder, Errno>) -> Result<Self, TreeError> {
        let target = |base, rule| Self {
            base,
            rule,
            path: path.to_owned(),
        };
        let failed = |source| TreeError::File {
            act: "open",
            path: path.to_owned(),
            source,
        };
        match open(path) {
            Ok(base) => return Ok(target(base, Rule::Into)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(source) => return Err(failed(source)),
        }
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(TreeError::NoFolder {
                path: path.to_owned(),
            });
        }
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            return Err(TreeError::NoParent {
                path: path.to_owned(),
            });
        };
        let parent = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        match open(parent) {
            Ok(base) => Ok(target(
                base,
                Rule::As {
                    name: name.to_owned(),
                    first: None,
                },
            )),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Err(TreeError::NoParent {
                path: path.to_owned(),
            }),
            Err(source) => Err(failed(source)),
        }
    }

    /// Where the entry `path` of a stream goes, as names below the base; none: the base itself.
    ///
    /// # Errors
    /// [`TreeError::Outside`], and [`TreeError::Several`] for a second first name where there can be one only.
    pub(crate) fn place(&mut self, path: &Path) -> Result<PathBuf, TreeError> {
        let names = names(path)?;
        let Rule::As { name, first } = &mut self.rule else {
            return Ok(names);
        };
        let mut own = names.components();
        let top = own.next().map_or(OsStr::new(""), Component::as_os_str);
        if first.get_or_insert_with(|| top.to_owned()) != top {
            return Err(TreeError::Several {
                path: self.path.clone(),
            });
        }
        Ok(Path::new(name).join(own.as_path()))
    }

    /// The stream's first entry is a directory without a name (`.`): it is made where it is missing, and all else goes
    /// into it.
    pub(crate) fn enter(&mut self) -> Result<(), TreeError> {
        let Rule::As { name, first: None } = &self.rule else {
            return Ok(());
        };
        let failed = |source| TreeError::File {
            act: "make",
            path: self.path.clone(),
            source,
        };
        let is_file = self.base.stat(name).map_err(failed)?;
        if is_file.is_some_and(|stat| !is(&stat, SFlag::S_IFDIR)) {
            return Err(TreeError::NoFolder {
                path: self.path.clone(),
            });
        }
        match self.base.make(name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(source) => return Err(failed(source)),
        }
        let base = self.base.below(Path::new(name)).map_err(failed)?;
        self.base = base;
        self.rule = Rule::Into;
        Ok(())
    }
}

/// Plain names only.
fn names(path: &Path) -> Result<PathBuf, TreeError> {
    let mut names = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(TreeError::Outside {
                    path: path.to_owned(),
                });
            }
        }
    }
    match names.components().count() <= crate::MAX_DEPTH {
        true => Ok(names),
        false => Err(TreeError::Deep {
            path: path.to_owned(),
        }),
    }
}
