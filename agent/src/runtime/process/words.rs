//! What a runtime says where it fails: JSON lines in a log, as its command line writes them.

use serde_json::Value;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What is read of one step's words.
const MAX_READ: u64 = 16 << 10;
/// What is kept of them; see the bound of a last error in `report`.
const MAX_WORDS: usize = 1_024;

/// The log of a runtime, and how far it was written when the present step began.
#[derive(Debug)]
pub(super) struct Words {
    path: PathBuf,
    from: u64,
}

impl Words {
    pub(super) fn of(log: &Path) -> Self {
        Self {
            path: log.to_owned(),
            from: 0,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A step begins.
    pub(super) fn begin(&mut self) {
        self.from = self.path.metadata().map_or(0, |metadata| metadata.len());
    }

    /// The last error of the step, which is the outermost one; empty where there is none.
    pub(super) fn last(&self) -> String {
        self.errors().pop().unwrap_or_default()
    }

    /// All errors of the step, in their order. A log that can't be read has none.
    pub(super) fn errors(&self) -> Vec<String> {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(self.from))?;
            let mut bytes = Vec::new();
            file.take(MAX_READ).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let events = text.lines().flat_map(objects);
        events.filter_map(|event| error(&event)).collect()
    }
}

/// The objects of a line: `runsc` puts many into one.
fn objects(line: &str) -> impl Iterator<Item = Value> {
    let objects = serde_json::Deserializer::from_str(line).into_iter();
    objects.map_while(Result::ok)
}

/// Its message, if it is an error.
fn error(event: &Value) -> Option<String> {
    let message = event["msg"].as_str()?;
    (event["level"] == "error").then(|| cut(message.trim().to_owned()))
}

fn cut(mut words: String) -> String {
    if words.len() > MAX_WORDS {
        let mut end = MAX_WORDS;
        while !words.is_char_boundary(end) {
            end -= 1;
        }
        words.truncate(end);
    }
    words
}

/// Says it in `log`, as the last and outermost error. One write a line: processes may share the file.
pub(super) fn tell(mut log: &File, message: &str) -> io::Result<()> {
    let line = serde_json::json!({"level": "error", "msg": message});
    log.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_present_step_are_found_in_a_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let mut words = Words::of(&path);
        words.begin();
        assert_eq!(words.last(), "", "no log yet");
        std::fs::write(&path, "{\"level\":\"error\",\"msg\":\"of before\"}\n").expect("written");
        words.begin();
        let lines = concat!(
            "{\"level\":\"error\",\"msg\":\"inner\",\"time\":\"2026-01-01T00:00:00Z\"}\n",
            "{\"level\":\"warning\",\"msg\":\"no error\"}\n",
            "not JSON\n",
            "{\"level\":\"info\",\"msg\":\"none\"}{\"level\":\"error\",\"msg\":\"beside it\"}\n",
            "{\"level\":\"error\",\"msg\":\"outer: \\\"x\\\"\"}\n",
            "{\"level\":\"err",
        );
        let before = std::fs::read_to_string(&path).expect("read");
        std::fs::write(&path, before + lines).expect("written");
        assert_eq!(words.errors(), ["inner", "beside it", "outer: \"x\""]);
        assert_eq!(words.last(), "outer: \"x\"");
    }

    #[test]
    fn what_is_told_is_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let file = File::create(&path).expect("made");
        tell(&file, "inner \"x\"").expect("told");
        tell(&file, "outer\nof two lines").expect("told");
        assert_eq!(Words::of(&path).errors(), ["inner \"x\"", "outer\nof two lines"]);
    }
}
