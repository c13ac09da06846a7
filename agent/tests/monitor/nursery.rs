//! Where monitors come from: that it may die, and that nobody takes a monitor for another.

use super::*;
use agent::runtime::monitor::Nursery;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

fn nursery() -> Arc<Nursery> {
    Arc::new(Nursery::of(PathBuf::from(env!("CARGO_BIN_EXE_sbxlet"))))
}

fn pid(monitor: &Monitor) -> i32 {
    monitor.state().borrow().process.as_ref().expect("it runs").pid
}

/// The process that it was forked from, or that has taken it over since.
fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let parent = fields.split_ascii_whitespace().nth(1).expect("a parent");
    parent.parse().expect("a number")
}

fn shown(pid: i32) -> Vec<String> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("it runs");
    line.trim_end_matches('\0')
        .split('\0')
        .map(str::to_owned)
        .collect()
}

async fn started(sandbox: &Sandbox, nursery: &Arc<Nursery>) -> Monitor {
    let monitor = sandbox.launch_from(nursery.clone()).await;
    assert_eq!(
        monitor.started().await.phase(),
        MonitorPhase::Running,
        "{}",
        sandbox.words()
    );
    monitor
}

#[tokio::test]
async fn killed_nursery_is_started_anew_and_its_monitors_go_on() {
    let nursery = nursery();
    let sleeping = r#"name: c, args: [sleep, "600"]"#;
    let sandboxes = [(); 3].map(|()| Sandbox::new(Runtime::Native, sleeping));
    let first = started(&sandboxes[0], &nursery).await;
    let second = started(&sandboxes[1], &nursery).await;
    let dir = sandboxes[0].monitor_dir().display().to_string();
    assert_eq!(shown(pid(&first)), ["sbxlet", "monitor", "--dir", &dir]);
    let process = parent(pid(&first));
    assert_eq!(process, parent(pid(&second)), "one for all");
    assert_eq!(shown(process), ["sbxlet", "nursery"]);

    kill(Pid::from_raw(process), Signal::SIGKILL).expect("killed");
    let third = started(&sandboxes[2], &nursery).await;
    assert_ne!(parent(pid(&third)), process);
    for monitor in [first, second, third] {
        assert_eq!(monitor.state().borrow().phase(), MonitorPhase::Running);
        monitor.stop(Duration::ZERO).await.expect("stopped");
        assert_eq!(ended(&monitor).await.phase(), MonitorPhase::Ended);
    }
}

#[tokio::test]
async fn nursery_ends_with_its_agent_and_its_monitors_go_on() {
    let nursery = nursery();
    let sandbox = Sandbox::new(Runtime::Native, r#"name: c, args: [sleep, "600"]"#);
    let monitor = started(&sandbox, &nursery).await;
    let process = parent(pid(&monitor));
    drop(nursery);
    assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
    let found = sandbox.attach().await;
    assert_eq!(found.state().borrow().phase(), MonitorPhase::Running);
    found.stop(Duration::ZERO).await.expect("stopped");
    assert_eq!(ended(&monitor).await.phase(), MonitorPhase::Ended);
}

/// A container's first process is a monitor's until its program takes its place. Through `/proc/PID/exe` a program could
/// replace the agent's file with its own, which the node's root would run next (CVE-2019-5736).
#[tokio::test]
async fn program_of_monitors_cannot_be_written_to_by_anybody_who_sees_them() {
    let sandbox = Sandbox::new(Runtime::Native, r#"name: c, args: [sleep, "600"]"#);
    // One that runs for nobody else.
    let program = sandbox.folder.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_sbxlet"), &program).expect("copied");
    let nursery = Arc::new(Nursery::of(program.clone()));
    let monitor = started(&sandbox, &nursery).await;
    let seen = nix::fcntl::open(
        format!("/proc/{}/exe", pid(&monitor)).as_str(),
        nix::fcntl::OFlag::O_PATH,
        nix::sys::stat::Mode::empty(),
    );
    let seen = seen.expect("root sees it");
    monitor.stop(Duration::ZERO).await.expect("stopped");
    assert_eq!(ended(&monitor).await.phase(), MonitorPhase::Ended);
    drop((monitor, nursery));
    // Not in use any more, so that this alone keeps it.
    let opened = std::fs::File::options()
        .write(true)
        .open(format!("/proc/self/fd/{}", seen.as_raw_fd()));
    let kind = opened.expect_err("refused").kind();
    assert_eq!(kind, std::io::ErrorKind::ReadOnlyFilesystem);
    assert!(std::fs::File::options().write(true).open(&program).is_ok());
}
