//! `sbxbench cluster` as its users run it: in small, so that it works when it is needed; and with hundreds of agents, so
//! that those don't crowd out users. On clusters of its own. Needs root.

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// A leader's death costs a write a second, as the contract has it; with room for a machine that does other things beside.
const LONGEST_WRITE_MS: f64 = 5_000.0;
/// From then on agents count as silent.
const GRACE_MS: f64 = 10_000.0;
/// What a write takes while nothing else happens tells how slow the machine is: what it takes while all agents report is
/// compared with that. Before reports had bounds of their own it was 24 s beside 90 ms.
const FLOODED: f64 = 10.0;
const FLOODED_MS: f64 = 1_000.0;
/// A snapshot is sent in pieces and loaded record by record: windows, buffers and caches, on a machine that builds meanwhile.
const BLOB_MIB: f64 = 48.0;

/// The report of a run, and what it has printed.
#[track_caller]
fn run(dir: &Path, args: &[&str]) -> (Value, String) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this makes network namespaces: run it as root"
    );
    // What is compared with itself must not be measured beside another cluster.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let json = dir.join("run.json");
    let output = Command::new(env!("CARGO_BIN_EXE_sbxbench"))
        .arg("cluster")
        .args(args)
        .arg("--json")
        .arg(&json)
        .output()
        .expect("sbxbench runs");
    assert!(output.status.success(), "{output:#?}");
    let text = std::fs::read(&json).expect("written");
    let report = serde_json::from_slice(&text).expect("the report is JSON");
    (report, String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A number that is there, and more than nothing.
#[track_caller]
fn number(report: &Value, path: &str) -> f64 {
    let found = report.pointer(path).and_then(Value::as_f64);
    let found = found.unwrap_or_else(|| panic!("{path} is missing: {report:#}"));
    assert!(found > 0.0, "{path} of {report:#}");
    found
}

#[test]
fn small_run_measures_every_part() {
    let dir = tempfile::tempdir().expect("a folder");
    let (svg, scale) = (dir.path().join("run.svg"), dir.path().join("scale.svg"));
    let charts = [svg.display().to_string(), scale.display().to_string()];
    let (report, table) = run(
        dir.path(),
        &["--quick", "--svg", &charts[0], "--scale-svg", &charts[1]],
    );
    for path in [
        "/fdatasync/p50",
        "/writes/0/per_second",
        "/writes/0/latency/p99",
        "/placement/both_per_second",
        "/burst/pending_to_scheduled/p99",
        "/burst/all_running_ms",
        "/failovers/0/others/p50",
        "/failovers/1/same_client/p50",
        "/failovers/2/others/p50",
        "/storm/quiet/p50",
        "/storm/flooded/p99",
        "/storm/meanwhile/max",
        "/storm/back/max",
        "/scale/2/replicas/2/rss_mib",
        "/scale/2/write/p99",
        "/scale/2/list_all_ms",
        "/scale/2/restart_ms",
        "/snapshot/arrived_ms",
        "/snapshot/caught_up_ms",
    ] {
        number(&report, path);
    }
    assert_eq!(report["scale"][2]["sandboxes"], 100, "{report:#}");
    // Its state takes 64 MiB. In one piece in anybody's memory it would take that there.
    assert!(number(&report, "/snapshot/mib") > 60.0, "{report:#}");
    for path in ["sender_mib", "receiver_mib", "loading_mib", "backup_mib"] {
        let taken = report["snapshot"][path].as_f64().expect("a number");
        assert!(taken < BLOB_MIB, "{path} of {report:#}");
    }
    for word in ["fdatasync", "burst", "failover", "heartbeat"] {
        assert!(table.contains(word), "no {word} in {table}");
    }
    let contenders = |part: &str| -> Vec<String> {
        let all = report[part].as_array().expect("a list").iter();
        all.filter_map(|one| Some(one["contender"].as_str()?.to_owned()))
            .collect()
    };
    // Where etcd is not installed that is told.
    let beside = report["left_out"].get("etcd").is_none();
    for part in ["writes", "failovers"] {
        assert_eq!(
            contenders(part).contains(&"etcd".to_owned()),
            beside,
            "{part} of {report:#}"
        );
    }
    for chart in [&svg, &scale] {
        let drawn = std::fs::read_to_string(chart).expect("drawn");
        assert!(drawn.starts_with("<svg") && drawn.contains("sandbox"), "{drawn}");
    }
}

#[test]
fn etcd_that_is_not_installed_is_left_out_and_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let (report, table) = run(
        dir.path(),
        &["--quick", "--only", "writes", "--etcd", "/nonexistent/etcd"],
    );
    assert!(
        table.contains("etcd is not among them: cannot run /nonexistent/etcd"),
        "{table}"
    );
    number(&report, "/writes/1/latency/p50");
}

#[test]
fn hundreds_of_agents_come_to_the_next_leader_and_report_without_stalling_writes() {
    let dir = tempfile::tempdir().expect("a folder");
    let args = [
        "--only",
        "storm",
        "--agents",
        "200",
        "--heartbeat",
        "2s",
        "--for",
        "2s",
    ];
    let (report, table) = run(dir.path(), &args);
    eprintln!("{table}");
    assert_eq!(report["storm"]["agents"], 200);
    assert_eq!(report["storm"]["sandboxes"], 400, "{table}");
    assert_eq!(report["storm"]["not_back"], 0, "{table}");
    let quiet = number(&report, "/storm/quiet/p50");
    // The last ones may be late on a machine that builds meanwhile; none stays away.
    assert!(number(&report, "/storm/back/p50") < GRACE_MS, "{table}");
    assert!(
        number(&report, "/storm/meanwhile/max") < LONGEST_WRITE_MS + FLOODED * quiet,
        "{table}"
    );
    assert!(
        number(&report, "/storm/flooded/p50") < FLOODED_MS + FLOODED * quiet,
        "{table}"
    );
}
