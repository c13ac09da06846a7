//! What a process in a container is to be, beside the container's program: the same but for its words and its
//! environment. Pure, but for reading the container's bundle.

use proto::wire::MonitorExec;
use serde_json::{Value, json};
use std::path::Path;

/// Of programs that could not be run and that were not found, as shells have it.
const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;
/// What programs take a terminal for where nobody says.
const TERM: &str = "xterm";

/// The `process` of an OCI spec, as JSON, of the container whose bundle this is.
pub(super) fn process(bundle: &Path, exec: &MonitorExec) -> Result<Vec<u8>, String> {
    let path = bundle.join("config.json");
    let failed = |fault: String| format!("cannot read {}: {fault}", path.display());
    let config = std::fs::read(&path).map_err(|e| failed(e.to_string()))?;
    let mut config: Value = serde_json::from_slice(&config).map_err(|e| failed(e.to_string()))?;
    let process = alter(config["process"].take(), exec).ok_or_else(|| failed("no process".to_owned()))?;
    Ok(process.to_string().into_bytes())
}

fn alter(mut process: Value, exec: &MonitorExec) -> Option<Value> {
    let fields = process.as_object_mut()?;
    fields.insert("args".to_owned(), json!(exec.args));
    fields.insert("terminal".to_owned(), json!(exec.terminal.is_some()));
    let known = fields.get("env").and_then(Value::as_array);
    let mut env: Vec<String> = known
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.as_str().map(str::to_owned))
        .collect();
    for entry in &exec.env {
        set(&mut env, entry.clone());
    }
    fields.remove("consoleSize");
    if let Some(terminal) = &exec.terminal {
        if !env.iter().any(|entry| entry.starts_with("TERM=")) {
            env.push(format!("TERM={TERM}"));
        }
        let size = json!({"height": terminal.rows, "width": terminal.columns});
        fields.insert("consoleSize".to_owned(), size);
    }
    fields.insert("env".to_owned(), json!(env));
    Some(process)
}

fn set(env: &mut Vec<String>, entry: String) {
    let key = entry.split_once('=').map_or(&*entry, |(key, _)| key);
    let same = |known: &String| known.split_once('=').is_some_and(|(other, _)| other == key);
    match env.iter().position(same) {
        Some(index) => env[index] = entry,
        None => env.push(entry),
    }
}

/// The exit code of what could not be started, by what the runtime says of it: each says it in its own words, and none
/// by a code.
pub(super) fn code(words: &str) -> i32 {
    let words = words.to_lowercase();
    let missing = ["not found", "no such file"];
    if missing.iter().any(|text| words.contains(text)) {
        NOT_FOUND
    } else {
        CANNOT_RUN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::MonitorTerminal;

    #[test]
    fn process_is_the_containers_but_for_words_environment_and_terminal() {
        let container = json!({
            "args": ["server"], "cwd": "/srv", "noNewPrivileges": true, "env": ["PATH=/bin", "A=1"],
            "user": {"uid": 33}, "consoleSize": {"height": 1, "width": 1},
        });
        let mut exec = MonitorExec {
            args: vec!["sh".to_owned()],
            env: vec!["A=2".to_owned(), "B=x=y".to_owned()],
            ..Default::default()
        };
        let mut want = json!({
            "args": ["sh"], "cwd": "/srv", "noNewPrivileges": true, "env": ["PATH=/bin", "A=2", "B=x=y"],
            "user": {"uid": 33}, "terminal": false,
        });
        assert_eq!(alter(container.clone(), &exec), Some(want.clone()));
        exec.terminal = Some(MonitorTerminal {
            rows: 24,
            columns: 80,
            ..Default::default()
        });
        want["terminal"] = json!(true);
        want["consoleSize"] = json!({"height": 24, "width": 80});
        want["env"] = json!(["PATH=/bin", "A=2", "B=x=y", "TERM=xterm"]);
        assert_eq!(alter(container, &exec), Some(want));
        assert_eq!(alter(Value::Null, &exec), None);
    }

    #[test]
    fn words_of_each_runtime_tell_missing_programs_from_those_that_cannot_be_run() {
        // native, runc, crun
        for missing in [
            "exec nothing: No such file or directory",
            "exec failed: exec: \"nothing\": executable file not found in $PATH",
            "executable file `nothing` not found in $PATH: No such file or directory",
        ] {
            assert_eq!(code(missing), NOT_FOUND, "{missing}");
        }
        for refused in [
            "exec /etc: Permission denied",
            "exec: \"/etc\": permission denied",
            "open executable: Permission denied",
        ] {
            assert_eq!(code(refused), CANNOT_RUN, "{refused}");
        }
    }
}
