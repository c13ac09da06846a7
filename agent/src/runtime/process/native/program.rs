//! The last step of a process in a container: a program takes its place.

use super::fault::Fault;
use super::process::ProcessPlan;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execve};
use std::convert::Infallible;
use std::ffi::{CString, NulError};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// That there is one, before anything is told to be ready.
pub(super) fn check(process: &ProcessPlan) -> Result<(), Fault> {
    find(name(process), process.search_path())
        .map(drop)
        .map_err(failed(process))
}

/// Becomes the program.
pub(super) fn run(process: &ProcessPlan) -> Result<Infallible, Fault> {
    let program = find(name(process), process.search_path()).map_err(failed(process))?;
    let words = |words: &[String]| -> Result<Vec<CString>, NulError> {
        words.iter().map(|word| CString::new(word.as_bytes())).collect()
    };
    let nul = |_| Errno::EINVAL;
    let program = CString::new(program.as_os_str().as_bytes()).map_err(nul);
    let (args, env) = (
        words(&process.args).map_err(nul),
        words(&process.env).map_err(nul),
    );
    // Not execvp(3), which takes a file of no known form for a script.
    let run = || execve(&program?, &args?, &env?);
    run().map_err(failed(process))
}

fn name(process: &ProcessPlan) -> &str {
    process.args.first().map_or("", String::as_str)
}

fn failed(process: &ProcessPlan) -> impl FnOnce(Errno) -> Fault {
    let program = name(process).to_owned();
    move |source| Fault::Program { program, source }
}

/// The program's file, for the user that we are by now.
fn find(program: &str, search: &str) -> Result<PathBuf, Errno> {
    let executable = |path: PathBuf| match access(&path, AccessFlags::X_OK) {
        Ok(()) if path.is_dir() => Err(Errno::EACCES),
        Ok(()) => Ok(path),
        Err(fault) => Err(fault),
    };
    if program.contains('/') {
        return executable(PathBuf::from(program));
    }
    let mut outcome = Err(Errno::ENOENT);
    for folder in search.split(':') {
        match executable(Path::new(folder).join(program)) {
            Ok(path) => return Ok(path),
            Err(Errno::EACCES) => outcome = Err(Errno::EACCES),
            Err(_) => {}
        }
    }
    outcome
}
