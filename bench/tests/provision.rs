//! `sbxbench` as its users run it, in small: on a cluster of its own, with real containers. Needs root.

use serde_json::Value;
use std::process::Command;

/// A positive time in milliseconds is there.
#[track_caller]
fn check_time(case: &Value, path: &str) {
    let found = case.pointer(path).and_then(Value::as_f64);
    assert!(found.is_some_and(|ms| ms > 0.0), "{path} of {case:#}");
}

#[test]
fn small_run_measures_every_case_and_leaves_nothing() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this makes namespaces and runs containers: run it as root"
    );
    let dir = tempfile::tempdir().expect("a folder");
    let (json, svg) = (dir.path().join("run.json"), dir.path().join("run.svg"));
    let output = Command::new(env!("CARGO_BIN_EXE_sbxbench"))
        .args(["provision", "--only", "sandboxd,runc,crun", "--replicas", "1"])
        .args(["--samples", "1", "--concurrency", "1,2", "--burst", "3"])
        .args(["--cold-samples", "1", "--idle", "100ms", "--watch-idle", "100ms"])
        .arg("--json")
        .arg(&json)
        .arg("--svg")
        .arg(&svg)
        .output()
        .expect("sbxbench runs");
    // It fails itself where anything of a sandbox is left on the node.
    assert!(output.status.success(), "{output:#?}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();

    let text = std::fs::read(&json).expect("written");
    let report: Value = serde_json::from_slice(&text).expect("the report is JSON");
    let cases = report["cases"].as_array().expect("a list of cases");
    let named: Vec<(&str, &str)> = cases
        .iter()
        .filter_map(|case| Some((case["contender"].as_str()?, case["case"].as_str()?)))
        .collect();
    let compared = ["after 100ms idle", "1 at once", "2 at once"];
    let mut wanted: Vec<(&str, &str)> = compared.map(|case| ("sandboxd", case)).into();
    wanted.push(("sandboxd", "burst of 3"));
    wanted.extend(compared.map(|case| ("runc", case)));
    wanted.extend(compared.map(|case| ("crun", case)));
    assert_eq!(named, wanted, "{report:#}");
    for case in cases {
        for path in [
            "/answered/p50",
            "/answered/p95",
            "/gone/p50",
            "/all_answered/p50",
            "/all_gone/p50",
        ] {
            check_time(case, path);
        }
        if case["contender"] == "sandboxd" {
            for stage in [
                "accepted to answered",
                "agent: network",
                "agent: files",
                "agent: start",
            ] {
                assert!(case["stages"][stage]["p50"].is_number(), "{stage} of {case:#}");
            }
        }
        let name = case["contender"].as_str().expect("a name");
        assert!(table.contains(name), "{table}");
    }
    assert_eq!(report["idle"]["sandboxes"], 3);
    check_time(&report["idle"], "/monitor_pss_mib");
    check_time(&report["idle"], "/agent_rss_mib");
    let svg = std::fs::read_to_string(&svg).expect("drawn");
    assert!(
        svg.starts_with("<svg") && svg.contains("sandboxd, 1 at once"),
        "{svg}"
    );
}

#[test]
fn what_is_not_installed_is_left_out_and_told() {
    let output = Command::new(env!("CARGO_BIN_EXE_sbxbench"))
        .args(["provision", "--only", "podman"])
        .env("PATH", "/nonexistent")
        .output()
        .expect("sbxbench runs");
    assert!(output.status.success(), "{output:#?}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        told.contains("podman is not among them: cannot run podman"),
        "{told}"
    );
}
