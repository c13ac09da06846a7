//! Where figures and news go: data to stdout and to files, all else to stderr.

use crate::error::BenchError;
use std::io::Write;
use std::path::Path;

/// Data, to stdout.
pub(crate) fn say(text: &str) -> Result<(), BenchError> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|source| BenchError::System {
            act: "write the figures",
            source,
        })
}

/// What is being done, to stderr. That nobody reads it is no failure.
pub(crate) fn tell(text: impl std::fmt::Display) {
    writeln!(std::io::stderr(), "{text}").ok();
}

pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), BenchError> {
    std::fs::write(path, text).map_err(|source| BenchError::Write {
        path: path.to_owned(),
        source,
    })
}
