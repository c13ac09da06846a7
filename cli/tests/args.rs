//! The command line as a user types it.

use clap::{CommandFactory, Parser};
use cli::args::{Cli, Command, DevCommand, Format, Since};
use std::time::Duration;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("sbxctl").chain(line.split_whitespace()))
}

#[test]
fn definition_is_consistent() {
    Cli::command().debug_assert();
}

#[track_caller]
fn check_ok(line: &str) {
    if let Err(error) = parse(line) {
        panic!("{line}: {error}");
    }
}

#[track_caller]
fn check_refused(line: &str, part: &str) {
    match parse(line) {
        Ok(cli) => panic!("{line} was understood as {cli:?}"),
        Err(error) => assert!(error.to_string().contains(part), "{line}: {error}"),
    }
}

#[test]
fn documented_forms_are_understood() {
    check_ok("apply -f a.yaml -f b/ -f - --replace --wait --timeout 10s");
    check_ok("get sandboxes -l a=b,c=d -o wide --stale");
    check_ok("get sbx a b -o json");
    check_ok("get ext --watch");
    check_ok("get cluster");
    check_ok("get sandbox/x -o yaml");
    check_ok("get sandboxes --phase running");
    check_ok("delete sandbox a b --wait");
    check_ok("delete -f x.yaml --ignore-not-found");
    check_ok("delete node n --force");
    check_ok("cp site web:/www");
    check_ok("cp web:server:/etc/x - -c server");
    check_ok("port-forward web 8080:80 :9000 --address ::1");
    check_ok("logs -f --tail 5 --since 5m -c main --timestamps x");
    check_ok("wait sandbox/x --for phase=Running --timeout 60s");
    check_ok("wait sandbox/x --for deleted");
    check_ok("validate -f x.yaml");
    check_ok("completion bash");
    check_ok("dev up --replicas 3 --agents 2 --dir /d --mirror docker.io=http://h:1 --subnet 10.88.7.0/24");
    check_ok("dev up --agent-arg --foo --label a=b --label agent-1:c=d");
    check_ok("dev kill leader");
    check_ok("dev add replica");
    check_ok("cluster members --stale -o json");
    check_ok("cluster add 4=https://10.0.0.4:7071=https://10.0.0.4:7070 --learner");
    check_ok("cluster remove 4 5 --force");
    check_ok("cluster promote 4");
    check_ok("cluster transfer-leader --to 2");
    check_ok("cluster backup x.backup --stale");
    check_ok("dev partition replica-1 agent-2");
    check_ok("dev down --keep-data --dir /d");
}

#[test]
fn wrong_forms_are_refused_with_a_reason() {
    check_refused("get pods", "no kind of object");
    check_refused("cluster add 4=https://10.0.0.4:7071", "write N=PEER_URL=URL");
    check_refused("cluster add 0=https://a:1=https://a:2", "write N=PEER_URL=URL");
    check_refused("cluster remove x", "invalid value");
    check_refused("cluster transfer-leader --to 0", "0 is not in");
    check_refused("get sandboxes -l a", "KEY=VALUE");
    check_refused("get sandboxes --phase Done", "no phase");
    check_refused("wait sandbox/x --for x", "phase=Running");
    check_refused("wait --for deleted", "required");
    check_refused("cp web:/x", "required");
    check_refused("port-forward web", "required");
    check_refused("port-forward web 80:http", ":PORT");
    check_refused("port-forward web 80 --address here", "address");
    check_refused("logs", "required");
    check_refused("logs x --since yesterday", "5m");
    check_refused("get nodes --request-timeout 0s", "longer than 0");
    check_refused("dev up --replicas 2", "1, 3 or 5");
    check_refused("dev kill", "required");
    check_refused("frobnicate", "unrecognized");
}

#[test]
fn global_options_are_taken_before_and_behind_the_verb() {
    for line in [
        "--server a:1,b:2 --server c:3 -o json get nodes",
        "get nodes --server a:1,b:2 --server c:3 -o json",
    ] {
        let global = parse(line).unwrap().global;
        assert_eq!(global.server, ["a:1", "b:2", "c:3"], "{line}");
        assert_eq!(global.output, Some(Format::Json), "{line}");
        assert_eq!(global.request_timeout, Duration::from_secs(30));
    }
}

#[test]
fn since_takes_spans_and_times() {
    let since = |line: &str| match parse(line).unwrap().command {
        Command::Logs(args) => args.since,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        since("logs x --since 5m"),
        Some(Since::Ago(Duration::from_secs(300)))
    );
    assert_eq!(
        since("logs x --since 2023-11-14T22:13:20Z"),
        Some(Since::At(1_700_000_000_000))
    );
    assert_eq!(since("logs x"), None);
}

#[test]
fn dev_folder_is_taken_behind_the_verb() {
    let Command::Dev(args) = parse("dev down --dir /d").unwrap().command else {
        panic!("dev was typed");
    };
    assert_eq!(args.dir.as_deref(), Some(std::path::Path::new("/d")));
    assert!(matches!(args.command, DevCommand::Down { keep_data: false }));
}
