//! What containers write, as users read it: followed, cut, after the end, over a restarted agent and a lost leader, in
//! any amount.

use super::{LONG, logs, manifest};
use e2e::cluster::Cluster;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout};
use std::time::Instant;

/// A follower and what he reads.
struct Follower {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Follower {
    fn of(cluster: &Cluster, line: &str) -> Self {
        let mut child = cluster.start(line);
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, lines }
    }

    /// The next line.
    #[track_caller]
    fn next(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("read");
        assert!(!line.is_empty(), "no more lines");
        line.trim_end().to_owned()
    }

    /// All that is still to come, to the end of the command.
    #[track_caller]
    fn rest(mut self) -> String {
        let mut text = String::new();
        self.lines.read_to_string(&mut text).expect("read");
        assert!(self.child.wait().expect("it ends").success());
        text
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // One that has ended is no failure.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Counts in lines of some hundred bytes, so that files are full after some ten thousand; pauses now and then, so that
/// rotations meet followers that wait and followers that read.
fn counting(lines: u32) -> String {
    let pad = "x".repeat(400);
    format!(
        "i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo \"$i {pad}\"; \
         [ $((i % 10000)) -eq 0 ] && sleep 0.1; done"
    )
}

#[track_caller]
fn check_counted(text: &str, first: u32, last: u32) {
    let numbers = text
        .lines()
        .map(|line| line.split(' ').next().unwrap_or_default());
    let mut expected = first;
    for number in numbers {
        assert_eq!(number, expected.to_string(), "lines are lost or doubled");
        expected += 1;
    }
    assert_eq!(expected, last + 1, "lines are missing at the end");
}

/// More than three files full, read while it is written: nothing is lost, nothing comes twice.
#[test]
fn follower_gets_each_line_once_through_rotations() {
    const LINES: u32 = 90_000;
    let cluster = Cluster::up(1, &[]);
    let script = format!("sleep 1; {}", counting(LINES));
    let fast = manifest("counts", &script, "").replace("cpu: 100m", "cpu: 800m");
    cluster.apply(&fast, &["--wait"]).ok();
    let follower = Follower::of(&cluster, "logs -f counts");
    check_counted(&follower.rest(), 1, LINES);
    cluster.wait("sandbox/counts", "phase=Succeeded", LONG).ok();
    // Afterwards there is what fits in its files, to the last line.
    let kept = logs(&cluster, "counts");
    assert!(kept.len() <= 31 << 20, "{} bytes", kept.len());
    let first = kept
        .split(' ')
        .next()
        .expect("a number")
        .parse()
        .expect("a number");
    assert!(first > 1 && first < LINES, "{first}");
    check_counted(&kept, first, LINES);
    let tail = cluster.run("logs counts --tail 3").ok();
    check_counted(&tail, LINES - 2, LINES);
}

/// Its agent is killed and comes back, and then its leader is killed: the follower sees a pause.
#[test]
fn follower_sees_each_line_once_over_a_restarted_agent_and_a_lost_leader() {
    let cluster = Cluster::up(1, &[]);
    let script = "i=0; while [ $i -lt 80 ]; do i=$((i+1)); echo $i; sleep 0.1; done; echo end >&2; exit 3";
    cluster.apply(&manifest("counts", script, ""), &["--wait"]).ok();
    let mut follower = Follower::of(&cluster, "logs -f counts");
    assert_eq!(follower.next(), "1");
    cluster.run("dev kill agent-1").ok();
    cluster.run("dev restart agent-1").ok();
    for i in 2..=40 {
        assert_eq!(follower.next(), i.to_string());
    }
    cluster.run("dev kill leader").ok();
    let rest: Vec<String> = follower.rest().lines().map(str::to_owned).collect();
    let want: Vec<String> = (41..=80)
        .map(|i| i.to_string())
        .chain(["end".to_owned()])
        .collect();
    assert_eq!(rest, want);
    // After death: the logs stay, and the status says how it has ended, with the last words.
    cluster.wait("sandbox/counts", "phase=Failed", LONG).ok();
    assert!(logs(&cluster, "counts").ends_with("80\nend\n"));
    let sandbox = cluster.get("sandbox", "counts");
    let message = sandbox["status"]["last_error"].as_str().unwrap_or_default();
    assert!(
        message.contains("exited with code 3") && message.ends_with("79\n80\nend"),
        "{message:?}"
    );
    cluster.run("delete sandbox counts --wait").ok();
    cluster.run("logs counts").fails(1, "counts");
}

#[test]
fn lines_are_chosen_by_time_number_and_container() {
    let cluster = Cluster::up(1, &[]);
    let text = "
apiVersion: sandboxd.o/v1
kind: Sandbox
id: pair
spec:
  containers:
    - {name: one, image: 'busybox:1.36', args: [/bin/sh, -c, 'echo a; echo b >&2; sleep 2; echo c; sleep 600'], resource: {cpu: 100m, memory: 32Mi}}
    - {name: two, image: 'busybox:1.36', args: [/bin/sh, -c, 'printf \"x\\ny\\033[2J\"; sleep 600'], resource: {cpu: 100m, memory: 32Mi}}
";
    cluster.apply(text, &["--wait"]).ok();
    super::await_log(&cluster, "pair", "[one] c");
    let lines = |line: &str| -> Vec<String> {
        let mut lines: Vec<String> = cluster.run(line).ok().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    // What has no end yet is no line yet.
    assert_eq!(lines("logs pair"), ["[one] a", "[one] b", "[one] c", "[two] x"]);
    assert_eq!(lines("logs pair -c one"), ["a", "b", "c"]);
    assert_eq!(lines("logs pair --tail 1"), ["[one] c", "[two] x"]);
    assert_eq!(lines("logs pair --tail 0"), [""; 0]);
    let timed = cluster.run("logs pair -c one --timestamps").ok();
    let time_of = |text: &str| {
        let line = timed.lines().find(|line| line.ends_with(text)).expect("there");
        line.split(' ').next().expect("a time").to_owned()
    };
    assert_eq!(
        lines(&format!("logs pair -c one --since {}", time_of(" c"))),
        ["c"]
    );
    assert_eq!(lines("logs pair -c one --since 1h"), ["a", "b", "c"]);
    cluster.run("logs pair -c three").fails(2, "it has one, two");
}

/// One that writes as fast as it can costs its node neither disk nor memory nor processor, and its reader no session.
#[test]
fn flood_is_bounded_and_a_slow_reader_holds_up_nobody() {
    let cluster = Cluster::up(1, &[]);
    let flood = manifest("flood", "yes", "").replace("cpu: 100m", "cpu: 500m");
    cluster.apply(&flood, &["--wait"]).ok();
    // Reads one line, and no more.
    let mut slow = Follower::of(&cluster, "logs -f flood");
    assert_eq!(slow.next(), "y");
    cluster
        .apply(
            &manifest("quiet", "while sleep 0.1; do echo here; done", ""),
            &["--wait"],
        )
        .ok();
    let begun = Instant::now();
    super::await_log(&cluster, "quiet", "here");
    assert!(
        begun.elapsed() < LONG / 4,
        "another one's logs took {:?}",
        begun.elapsed()
    );
    let sandboxes = cluster.dir().join("agent-1");
    let size = disk_of_logs(&sandboxes);
    assert!(size > 0 && size <= 32 << 20, "{size} bytes of logs");
    let agent = cluster.member("agent-1").pid.expect("it runs");
    let memory = resident(agent);
    assert!(memory < 200 << 20, "the agent takes {memory} bytes");
    let tail = cluster.run("logs flood --tail 5").ok();
    assert_eq!(tail, "y\n".repeat(5));
    drop(slow);
    cluster.run("delete sandbox flood quiet --wait").ok();
    assert_eq!(disk_of_logs(&sandboxes), 0);
    assert_eq!(
        cluster.member("agent-1").pid,
        Some(agent),
        "the agent is the same"
    );
}

/// Bytes of all log files below `dir`.
fn disk_of_logs(dir: &std::path::Path) -> u64 {
    let (mut open, mut size) = (vec![dir.to_owned()], 0);
    while let Some(next) = open.pop() {
        // What goes meanwhile has no size.
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            let in_logs = path.components().any(|c| c.as_os_str() == "logs");
            match entry.metadata() {
                Ok(stat) if stat.is_dir() && !path.ends_with("rootfs") => open.push(path),
                Ok(stat) if in_logs => size += stat.len(),
                Ok(_) | Err(_) => {}
            }
        }
    }
    size
}

fn resident(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("told");
    let kib: u64 = line
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .expect("a number");
    kib << 10
}
