//! Whole commands against an in-process replica: what they print where, and how they end.

mod replica;

use clap::Parser;
use cli::args::Cli;
use cli::failure::{EXIT_FAILED, EXIT_INVALID, EXIT_TIMEOUT, EXIT_USAGE, Failure};
use cli::invocation::Invocation;
use proto::wire::Phase;
use proto::wire::watch_event::Type::{Changed, Deleted, Synced};
use replica::{Act, Replica, event, sandbox};
use std::io::Write;
use std::sync::{Arc, Mutex};
use tonic::Code;

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

struct Ended {
    code: u8,
    failure: String,
    stdout: String,
    stderr: String,
}

/// Runs a command line against `replica`.
async fn run(replica: &Replica, line: &str) -> Ended {
    let server = replica.serve().await;
    let words = ["sbxctl", "--server", server.as_str(), "--request-timeout", "5s"];
    let cli = Cli::try_parse_from(words.into_iter().chain(line.split_whitespace())).unwrap();
    let (stdout, stderr) = (Buffer::default(), Buffer::default());
    let mut invocation = Invocation::new(cli.global, Box::new(stdout.clone()), Box::new(stderr.clone()));
    let ended = cli::commands::run(cli.command, &mut invocation).await;
    let (code, failure) = match ended {
        Ok(()) => (0, String::new()),
        Err(failure) => (Failure::exit_code(&failure), failure.to_string()),
    };
    Ended {
        code,
        failure,
        stdout: stdout.text(),
        stderr: stderr.text(),
    }
}

#[track_caller]
fn check(ended: &Ended, code: u8, stdout: &str, told: &str) {
    let rest = format!("{}{}", ended.stderr, ended.failure);
    assert_eq!(ended.code, code, "{rest}");
    assert_eq!(ended.stdout, stdout);
    assert!(rest.contains(told), "{rest}");
}

fn manifests(texts: &[&str]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    for (i, text) in texts.iter().enumerate() {
        std::fs::write(dir.path().join(format!("{i}.yaml")), text).unwrap();
    }
    let path = dir.path().display().to_string();
    (dir, path)
}

const A: &str = "{apiVersion: sandboxd.o/v1, kind: External, id: a, spec: {node_id: n, external: x.test}}";
const B: &str = "{apiVersion: sandboxd.o/v1, kind: External, id: b, spec: {node_id: n, external: y.test}}";
const BAD: &str = "{apiVersion: sandboxd.o/v1, kind: External, id: c, spec: {node_id: n}}";

#[tokio::test]
async fn applied_folder_tells_each_outcome_in_order() {
    let (_dir, path) = manifests(&[A, B]);
    let ended = run(&Replica::default(), &format!("apply -f {path}")).await;
    check(&ended, 0, "external/a created\nexternal/b created\n", "");
}

#[tokio::test]
async fn nothing_is_sent_where_one_manifest_is_wrong() {
    let (_dir, path) = manifests(&[A, BAD]);
    let replica = Replica::default();
    let ended = run(&replica, &format!("apply -f {path}")).await;
    check(&ended, EXIT_INVALID, "", "1.yaml: spec.external");
    assert!(replica.request_ids.lock().unwrap().is_empty());
}

#[tokio::test]
async fn others_are_applied_where_one_is_refused() {
    let (_dir, path) = manifests(&[A, B]);
    let replica = Replica::acting(vec![Act::Fail(Code::NotFound, "no node `n`"), Act::Accept]);
    let ended = run(&replica, &format!("apply -f {path}")).await;
    check(
        &ended,
        EXIT_FAILED,
        "external/b created\n",
        "apply external/a: no node `n`",
    );
    assert_eq!(ended.failure, "1 of 2 failed");
}

#[tokio::test]
async fn listed_sandboxes_are_data_on_stdout_also_as_json() {
    let replica = Replica::default();
    *replica.objects.lock().unwrap() = vec![sandbox("x", Phase::Running, 1), sandbox("y", Phase::Pending, 1)];
    let ended = run(&replica, "get sandboxes -o json").await;
    assert_eq!(ended.code, 0);
    let value: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(value["items"][1]["status"]["phase"], "Pending");
    let ended = run(&replica, "get sbx x").await;
    assert!(ended.stdout.starts_with("ID   PHASE"), "{}", ended.stdout);
    assert!(ended.stdout.contains("x    Running   0/2"), "{}", ended.stdout);
}

#[tokio::test]
async fn empty_list_is_told_on_stderr_and_an_empty_document() {
    check(
        &run(&Replica::default(), "get nodes").await,
        0,
        "",
        "no nodes found",
    );
    let ended = run(&Replica::default(), "get nodes -o json").await;
    check(&ended, 0, "{\n  \"items\": []\n}\n", "");
}

/// `phases` happen one after another.
async fn wait(phases: &[Phase], line: &str) -> Ended {
    let replica = Replica::default();
    let mut events = vec![
        event(Changed, Some(sandbox("x", phases[0], 1))),
        event(Synced, None),
    ];
    for (version, phase) in phases.iter().enumerate().skip(1) {
        events.push(event(Changed, Some(sandbox("x", *phase, 1 + version as u64))));
    }
    replica.watches.lock().unwrap().push_back(events);
    run(&replica, line).await
}

#[tokio::test]
async fn awaited_phase_that_comes_ends_the_wait() {
    let phases = [Phase::Pending, Phase::Scheduled, Phase::Running];
    let ended = wait(&phases, "wait sandbox/x --for phase=Running").await;
    check(&ended, 0, "sandbox/x Running\n", "");
}

#[tokio::test]
async fn awaited_phase_that_never_comes_ends_the_wait_early() {
    let ended = wait(
        &[Phase::Pending, Phase::Failed],
        "wait sandbox/x --for phase=Running",
    )
    .await;
    check(&ended, EXIT_FAILED, "", "sandbox/x Running: it is Failed");
}

#[tokio::test]
async fn wait_that_takes_too_long_tells_what_was_seen_last() {
    let ended = wait(&[Phase::Scheduled], "wait sandbox/x --for Ended --timeout 300ms").await;
    check(&ended, EXIT_TIMEOUT, "", "last seen: Scheduled");
}

#[tokio::test]
async fn wait_for_what_is_not_there_fails_unless_its_end_is_awaited() {
    let replica = Replica::default();
    let nothing = || vec![event(Synced, None)];
    *replica.watches.lock().unwrap() = [nothing(), nothing()].into();
    let ended = run(&replica, "wait sandbox/x --for phase=Running").await;
    check(&ended, EXIT_FAILED, "", "it is not there");
    let ended = run(&replica, "wait sandbox/x --for deleted").await;
    check(&ended, 0, "sandbox/x gone\n", "");
}

#[tokio::test]
async fn delete_with_wait_returns_when_it_is_gone() {
    let replica = Replica::default();
    let events = vec![
        event(Changed, Some(sandbox("x", Phase::Deleting, 2))),
        event(Synced, None),
        event(Deleted, Some(sandbox("x", Phase::Deleting, 3))),
    ];
    replica.watches.lock().unwrap().push_back(events);
    let ended = run(&replica, "delete sandbox x --wait").await;
    check(&ended, 0, "sandbox/x deleted\nsandbox/x gone\n", "");
}

#[tokio::test]
async fn missing_object_is_an_error_unless_it_may_be_missing() {
    let gone = || Replica::acting(vec![Act::Fail(Code::NotFound, "no sandbox `x`")]);
    check(
        &run(&gone(), "delete sandbox x").await,
        EXIT_FAILED,
        "",
        "no sandbox `x`",
    );
    let ended = run(&gone(), "delete sandbox x --ignore-not-found").await;
    check(&ended, 0, "", "sandbox/x is not there");
}

#[tokio::test]
async fn log_lines_of_several_containers_are_prefixed() {
    let replica = Replica::default();
    *replica.objects.lock().unwrap() = vec![sandbox("x", Phase::Running, 1)];
    let line = |container: &str, text: &str| proto::wire::LogLine {
        container: container.to_owned(),
        stderr: false,
        time_unix_ns: 1,
        line: text.as_bytes().to_vec(),
    };
    let lines = vec![line("one", "hello"), line("two", "world")];
    *replica.logs.lock().unwrap() = [(lines.clone(), true), (lines[..1].to_vec(), true)].into();
    check(
        &run(&replica, "logs x").await,
        0,
        "[one] hello\n[two] world\n",
        "",
    );
    check(&run(&replica, "logs sandbox/x -c one").await, 0, "hello\n", "");
    let ended = run(&replica, "logs x -c three").await;
    check(&ended, EXIT_USAGE, "", "it has one, two");
}

#[tokio::test]
async fn options_without_a_meaning_are_refused() {
    let replica = Replica::default();
    check(
        &run(&replica, "delete sandbox x -o json").await,
        EXIT_USAGE,
        "",
        "no -o",
    );
    check(
        &run(&replica, "delete sandbox x --force").await,
        EXIT_USAGE,
        "",
        "for nodes",
    );
    check(
        &run(&replica, "get nodes --phase running").await,
        EXIT_USAGE,
        "",
        "for sandboxes",
    );
    check(&run(&replica, "get cluster x").await, EXIT_USAGE, "", "no ids");
    check(
        &run(&replica, "wait node/x --for Ended").await,
        EXIT_USAGE,
        "",
        "only sandboxes",
    );
    check(&run(&replica, "apply").await, EXIT_USAGE, "", "-f FILE");
}
