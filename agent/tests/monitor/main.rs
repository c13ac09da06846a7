//! The monitor and every runtime on the real kernel, as root: what each must do alike.

mod copy;
mod exec;
mod fixture;
mod limits;
mod nursery;
mod root;

use agent::clock::BootTime;
use agent::runtime::monitor::{self, Monitor, MonitorError};
use fixture::{GRACE, PATIENCE, Sandbox};
use proto::wire::{ContainerState, MonitorOutcome, MonitorPhase, MonitorState, Reason, Runtime};
use std::time::{Duration, Instant};

/// Says that it is there, and ends by itself when it is told to.
const OBEDIENT: &str = r#"args: [sh, -c, "trap 'echo bye; exit 0' TERM; echo there; touch /v/there; while :; do sleep 0.05; done"]"#;
/// Says that it is there, and ignores that it is told to end, whatever runtime it has.
const DEAF: &str = r#"args: [sh, -c, "trap '' TERM; echo there; exec sleep 600"]"#;

/// Those that are installed; of the others it is said loudly that they were left out.
fn runtimes() -> Vec<Runtime> {
    let all = [Runtime::Native, Runtime::Runc, Runtime::Crun, Runtime::Runsc];
    all.into_iter()
        .filter(|runtime| fixture::is_installed(*runtime))
        .collect()
}

/// How a sandbox must have ended.
#[derive(Clone, Copy, Default)]
struct Want {
    outcome: MonitorOutcome,
    reason: Reason,
    /// Part of the message.
    message: &'static str,
    /// Per container: exit code, whether it was short of memory, lines on stdout.
    containers: &'static [(Option<i32>, bool, &'static [&'static str])],
}

async fn ended(monitor: &Monitor) -> MonitorState {
    let ended = tokio::time::timeout(PATIENCE, monitor.ended_or_lost()).await;
    ended.unwrap_or_else(|_| panic!("it has not ended: {:?}", *monitor.state().borrow()))
}

#[track_caller]
fn assert_ended(sandbox: &Sandbox, last: &MonitorState, want: &Want) {
    assert_eq!(last.phase(), MonitorPhase::Ended, "{last:?}");
    assert_eq!(
        (last.outcome(), last.reason()),
        (want.outcome, want.reason),
        "{last:?}"
    );
    assert!(last.message.contains(want.message), "{last:?}");
    assert!(last.ended_at_ms > 0);
    assert_eq!(last.containers.len(), want.containers.len());
    for (container, (code, oom_killed, lines)) in last.containers.iter().zip(want.containers) {
        assert_eq!(
            (container.exit_code, container.oom_killed),
            (*code, *oom_killed),
            "{last:?}"
        );
        if code.is_some() {
            assert_eq!(container.state(), ContainerState::Exited);
            assert!(container.started_at_ms > 0 && container.finished_at_ms >= container.started_at_ms);
        }
        assert_eq!(
            sandbox.logged(&container.name, "stdout"),
            *lines,
            "{}",
            sandbox.words()
        );
    }
    sandbox.assert_nothing_is_left(last);
}

/// Runs it with each runtime until it ends by itself.
async fn check(containers: &str, want: Want) {
    for runtime in runtimes() {
        check_with(runtime, containers, &want).await;
    }
}

async fn check_with(runtime: Runtime, containers: &str, want: &Want) {
    let sandbox = Sandbox::new(runtime, containers);
    let monitor = sandbox.launch().await;
    let last = ended(&monitor).await;
    assert_ended(&sandbox, &last, want);
}

/// As [`check`], with another end where all containers share one kernel.
async fn check_apart(containers: &str, want: Want, in_instance: Want) {
    for runtime in runtimes() {
        let want = match runtime {
            Runtime::Runsc => &in_instance,
            Runtime::Unspecified | Runtime::Native | Runtime::Runc | Runtime::Crun => &want,
        };
        check_with(runtime, containers, want).await;
    }
}

#[tokio::test]
async fn program_that_ends_with_0_succeeds_and_its_output_is_kept() {
    let containers = r#"name: c, args: [sh, -c, "echo one; echo two; printf three; echo wrong >&2"]"#;
    for runtime in runtimes() {
        let sandbox = Sandbox::new(runtime, containers);
        let last = ended(&sandbox.launch().await).await;
        let want = Want {
            outcome: MonitorOutcome::Succeeded,
            containers: &[(Some(0), false, &["one", "two", "three"])],
            ..Default::default()
        };
        assert_ended(&sandbox, &last, &want);
        assert_eq!(sandbox.logged("c", "stderr"), ["wrong"]);
    }
}

#[tokio::test]
async fn program_that_ends_otherwise_fails() {
    let want = Want {
        outcome: MonitorOutcome::Failed,
        reason: Reason::ContainerExited,
        message: "container c exited with code 3",
        containers: &[(Some(3), false, &[])],
    };
    check(r#"name: c, args: [sh, -c, "exit 3"]"#, want).await;
}

#[tokio::test]
async fn last_zero_exit_succeeds() {
    let want = Want {
        outcome: MonitorOutcome::Succeeded,
        containers: &[(Some(0), false, &[]), (Some(0), false, &["later"])],
        ..Default::default()
    };
    let containers = r#"
        name: a, args: ["true"]
        name: b, args: [sh, -c, "sleep 0.2; echo later"]
    "#;
    check(containers, want).await;
}

#[tokio::test]
async fn want_of_memory_is_told_of_the_container_that_had_it() {
    let containers = r#"
        name: idle, args: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.05; done"]
        name: greedy, args: [tail, -c, "500000000", /dev/zero]
    "#;
    let want = Want {
        outcome: MonitorOutcome::Failed,
        reason: Reason::OomKilled,
        message: "container greedy was ended by SIGKILL after it had reached its memory limit",
        containers: &[(Some(0), false, &[]), (Some(137), true, &[])],
    };
    // The instance ends as a whole, and nobody knows whose memory it was.
    let in_instance = Want {
        message: "container idle or greedy was ended by SIGKILL after it had reached its memory limit",
        containers: &[(Some(137), true, &[]), (Some(137), true, &[])],
        ..want
    };
    check_apart(containers, want, in_instance).await;
}

#[tokio::test]
async fn failure_of_one_stops_the_others() {
    let containers = format!(
        "name: good, {OBEDIENT}\n{}\n{}",
        r#"name: deaf, args: [sh, -c, "trap '' TERM; touch /v/deaf; exec sleep 600"]"#,
        r#"name: bad, args: [sh, -c, "until [ -e /v/there -a -e /v/deaf ]; do sleep 0.05; done; exit 7"]"#
    );
    for runtime in runtimes() {
        let sandbox = Sandbox::new(runtime, &containers);
        let last = ended(&sandbox.launch().await).await;
        let want = Want {
            outcome: MonitorOutcome::Failed,
            reason: Reason::ContainerExited,
            message: "container bad exited with code 7",
            containers: &[
                (Some(0), false, &["there", "bye"]),
                (Some(137), false, &[]),
                (Some(7), false, &[]),
            ],
        };
        assert_ended(&sandbox, &last, &want);
    }
}

#[tokio::test]
async fn signal_ends_a_container_with_128_and_its_number() {
    for runtime in runtimes() {
        let sandbox = Sandbox::new(runtime, &format!("name: c, {DEAF}"));
        let monitor = sandbox.launch().await;
        sandbox.said("c", "there").await;
        let unknown = monitor.signal(Some("other"), libc_sigkill()).await;
        assert!(
            matches!(unknown, Err(MonitorError::Refused { .. })),
            "{unknown:?}"
        );
        monitor
            .signal(Some("c"), libc_sigkill())
            .await
            .expect("signalled");
        let last = ended(&monitor).await;
        let want = Want {
            outcome: MonitorOutcome::Failed,
            reason: Reason::ContainerExited,
            message: "container c was ended by SIGKILL",
            containers: &[(Some(137), false, &["there"])],
        };
        assert_ended(&sandbox, &last, &want);
    }
}

fn libc_sigkill() -> i32 {
    nix::sys::signal::Signal::SIGKILL as i32
}

#[tokio::test]
async fn stop_lets_a_program_end_by_itself() {
    for runtime in runtimes() {
        let sandbox = Sandbox::new(runtime, &format!("name: c, {OBEDIENT}"));
        let monitor = sandbox.launch().await;
        sandbox.said("c", "there").await;
        assert_eq!(monitor.started().await.phase(), MonitorPhase::Running);
        monitor.stop(PATIENCE).await.expect("stopped");
        let last = ended(&monitor).await;
        let want = Want {
            outcome: MonitorOutcome::Stopped,
            containers: &[(Some(0), false, &["there", "bye"])],
            ..Default::default()
        };
        assert_ended(&sandbox, &last, &want);
        monitor.stop(PATIENCE).await.expect("it has stopped already");
    }
}

#[tokio::test]
async fn stop_kills_after_its_grace() {
    for runtime in runtimes() {
        let sandbox = Sandbox::new(runtime, &format!("name: c, {DEAF}"));
        let monitor = sandbox.launch().await;
        sandbox.said("c", "there").await;
        let begun = Instant::now();
        monitor.stop(GRACE).await.expect("stopped");
        let last = ended(&monitor).await;
        assert!(begun.elapsed() >= GRACE, "{:?}", begun.elapsed());
        let want = Want {
            outcome: MonitorOutcome::Stopped,
            containers: &[(Some(137), false, &["there"])],
            ..Default::default()
        };
        assert_ended(&sandbox, &last, &want);
    }
}

#[tokio::test]
async fn time_to_live_ends_a_sandbox_and_can_be_changed() {
    for runtime in runtimes() {
        let mut sandbox = Sandbox::new(runtime, &format!("name: c, {OBEDIENT}"));
        sandbox.spec.expires_at_boot_ms = BootTime::now().plus(PATIENCE * 10).0;
        let monitor = sandbox.launch().await;
        sandbox.said("c", "there").await;
        let soon = BootTime::now().plus(Duration::from_millis(50));
        monitor.expire_at(Some(soon)).await.expect("set");
        let last = ended(&monitor).await;
        assert!(soon.has_passed());
        assert_eq!(last.expires_at_boot_ms, soon.0);
        let want = Want {
            outcome: MonitorOutcome::Expired,
            containers: &[(Some(0), false, &["there", "bye"])],
            ..Default::default()
        };
        assert_ended(&sandbox, &last, &want);
    }
}

#[tokio::test]
async fn sandbox_whose_time_is_over_before_it_is_made_never_starts() {
    for runtime in runtimes() {
        let mut sandbox = Sandbox::new(runtime, "name: c, args: [echo, alas]");
        sandbox.spec.expires_at_boot_ms = 1;
        let last = ended(&sandbox.launch().await).await;
        let want = Want {
            outcome: MonitorOutcome::Expired,
            containers: &[(None, false, &[])],
            ..Default::default()
        };
        assert_ended(&sandbox, &last, &want);
    }
}

#[tokio::test]
async fn restarted_agent_finds_what_runs_and_what_has_ended() {
    for runtime in runtimes() {
        let sandbox = Sandbox::new(runtime, &format!("name: c, {OBEDIENT}"));
        assert!(
            monitor::attach(&sandbox.monitor_dir())
                .await
                .expect("read")
                .is_none()
        );
        let monitor = sandbox.launch().await;
        sandbox.said("c", "there").await;
        let before = monitor.started().await;
        assert_detached(&sandbox, &before);
        drop(monitor);
        let monitor = sandbox.attach().await;
        assert_eq!(monitor.started().await.process, before.process);
        monitor.stop(PATIENCE).await.expect("stopped");
        drop(monitor);
        // It ends with nobody listening, or with this one.
        let last = ended(&sandbox.attach().await).await;
        assert_eq!(last.outcome(), MonitorOutcome::Stopped);
        let again = sandbox.attach().await;
        assert_eq!(again.state().borrow().clone(), last);
        sandbox.assert_nothing_is_left(&last);
    }
}

/// Whatever ends the agent, its session or its control group, does not end the monitor.
#[track_caller]
fn assert_detached(sandbox: &Sandbox, state: &MonitorState) {
    let pid = state.process.as_ref().expect("a process").pid;
    let read = |name| std::fs::read_to_string(format!("/proc/{pid}/{name}")).expect("it runs");
    let own = sandbox.cgroup.join("monitor").display().to_string();
    assert!(
        read("cgroup").lines().any(|line| line.ends_with(&own)),
        "{}",
        read("cgroup")
    );
    // The sixth field; the second is the program's name.
    let stat = read("stat");
    let session = stat
        .rsplit_once(')')
        .and_then(|(_, fields)| fields.split_whitespace().nth(3));
    assert_eq!(session, Some(pid.to_string().as_str()));
}

#[tokio::test]
async fn killed_monitor_is_told_from_one_that_has_ended() {
    for runtime in runtimes() {
        let sandbox = Sandbox::new(runtime, &format!("name: c, {DEAF}"));
        let monitor = sandbox.launch().await;
        sandbox.said("c", "there").await;
        let pid = monitor.started().await.process.expect("a process").pid;
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
        for monitor in [monitor, sandbox.attach().await] {
            let last = ended(&monitor).await;
            assert_eq!(
                (last.phase(), last.reason()),
                (MonitorPhase::Lost, Reason::AgentError)
            );
        }
    }
}

#[tokio::test]
async fn cpu_limit_that_is_left_to_the_monitor_holds_when_the_program_runs() {
    let mut sandbox = Sandbox::new(Runtime::Native, r#"name: c, args: [sleep, "600"]"#);
    let container = &mut sandbox.spec.containers[0];
    (container.cpu_quota_us, container.cpu_period_us) = (7_000, 50_000);
    let group = container.cgroup.clone();
    let monitor = sandbox.launch().await;
    assert_eq!(monitor.started().await.phase(), MonitorPhase::Running);
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    let v1 = |file: &str| read(format!("/sys/fs/cgroup/cpu{group}/{file}"));
    let found = match v1("cpu.cfs_quota_us") {
        none if none.is_empty() => read(format!("/sys/fs/cgroup{group}/cpu.max")),
        quota => format!("{} {}", quota.trim(), v1("cpu.cfs_period_us")),
    };
    assert_eq!(found.trim(), "7000 50000");
    monitor.stop(Duration::ZERO).await.expect("stopped");
    ended(&monitor).await;
}

#[tokio::test]
async fn what_can_not_be_run_fails_to_start_in_the_runtimes_own_words() {
    let containers = r#"
        name: good, args: [sleep, "600"]
        name: bad, args: [nonexistent]
    "#;
    let want = Want {
        outcome: MonitorOutcome::Failed,
        reason: Reason::StartFailed,
        message: "nonexistent",
        containers: &[(None, false, &[]), (None, false, &[])],
    };
    // A program is looked for when it is started, and the one before it runs by then.
    let in_instance = Want {
        containers: &[(Some(143), false, &[]), (None, false, &[])],
        ..want
    };
    check_apart(containers, want, in_instance).await;
}

#[tokio::test]
async fn program_of_no_known_form_fails_to_start() {
    let sandbox = Sandbox::new(Runtime::Native, "name: c, args: [/bin/broken]");
    let last = ended(&sandbox.launch().await).await;
    let want = Want {
        outcome: MonitorOutcome::Failed,
        reason: Reason::StartFailed,
        message: "exec /bin/broken: Exec format error",
        containers: &[(None, false, &[])],
    };
    assert_ended(&sandbox, &last, &want);
}

#[tokio::test]
async fn flood_of_output_is_rotated_and_stays_bounded() {
    const FLOOD: usize = 18_000_000;
    let containers = format!(
        "name: c, args: [sh, -c, \"yes 0123456789012345678901234567890123456789 | head -c {FLOOD}\"]"
    );
    for runtime in runtimes() {
        let sandbox = Sandbox::new(runtime, &containers);
        let last = ended(&sandbox.launch().await).await;
        assert_eq!(last.outcome(), MonitorOutcome::Succeeded, "{last:?}");
        assert_eq!(last.lost_log_lines, 0);
        let files = sandbox.log_files("c");
        assert_eq!(files.len(), agent::runtime::logs::FILES);
        let length = |path: &std::path::PathBuf| path.metadata().expect("there").len();
        let limit = agent::runtime::logs::MAX_FILE + (1 << 20);
        assert!(files.iter().all(|path| length(path) <= limit), "{files:?}");
        sandbox.assert_nothing_is_left(&last);
    }
}

/// A million lines, whose records of 42 bytes take some 11 MB more than may come at once, at 8 MiB a second: 1.3 s, less
/// what pipes hold.
#[tokio::test]
async fn endless_output_is_slowed_down_and_none_of_it_lost() {
    let containers = "name: c, args: [sh, -c, \"yes | head -c 2140000; echo end\"]";
    let sandbox = Sandbox::new(Runtime::Native, containers);
    let begun = Instant::now();
    let last = ended(&sandbox.launch().await).await;
    assert!(
        begun.elapsed() > Duration::from_millis(1_000),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(last.outcome(), MonitorOutcome::Succeeded, "{last:?}");
    assert_eq!(last.lost_log_lines, 0);
    let lines = sandbox.logged("c", "stdout");
    assert_eq!(lines.last().map(String::as_str), Some("end"));
    assert!(lines[..lines.len() - 1].iter().all(|line| line == "y"));
}

#[tokio::test]
async fn container_is_confined_as_its_spec_says() {
    let script = "id -u; id -G; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; cat /etc/hostname; ls /proc/self/fd; \
                  mount -t tmpfs none /tmp 2>/dev/null || echo no mount; touch /x && echo writable; \
                  head -c 1 /proc/kcore; ls /sys/firmware; cat /proc/self/oom_score_adj; yes | head -n 1";
    let containers = format!("name: c, args: [sh, -c, {script:?}]");
    let lines = |score: &'static str| {
        let lines = [
            "33",
            "33 44",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            "box",
            "0",
            "1",
            "2",
            "3",
            "no mount",
            score,
            "y",
        ];
        lines.map(str::to_owned)
    };
    for runtime in runtimes() {
        let sandbox = Sandbox::new(runtime, &containers);
        let last = ended(&sandbox.launch().await).await;
        assert_eq!(last.outcome(), MonitorOutcome::Succeeded, "{last:?}");
        // Scores of a kernel of its own say nothing to the host's.
        let score = if runtime == Runtime::Runsc { "0" } else { "500" };
        assert_eq!(sandbox.logged("c", "stdout"), lines(score), "{runtime:?}");
        sandbox.assert_nothing_is_left(&last);
    }
}

#[tokio::test]
async fn seccomp_holds_where_new_privileges_are_allowed() {
    let containers = "name: c, args: [grep, -E, 'NoNewPrivs|Seccomp:', /proc/self/status], \
                      security_opt: ['no-new-privileges:false']";
    let want = Want {
        outcome: MonitorOutcome::Succeeded,
        containers: &[(Some(0), false, &["NoNewPrivs:\t0", "Seccomp:\t2"])],
        ..Default::default()
    };
    check(containers, want).await;
}
