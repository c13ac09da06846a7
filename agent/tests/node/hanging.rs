//! A runtime that does not return: a script in the place of `runc`, which is run as `runc` is.

use super::leader::{PATIENCE, desired, ended};
use super::machine::{Machine, Running};
use super::{LONG_LEASE, on_machine, one};
use proto::wire::{Phase, Reason};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a sandbox may take to end where its runtime does not help: the grace, and the patience with its monitor.
const END: Duration = Duration::from_secs(10);

/// A `runc` that hangs at one of its steps, together with a child of its own.
struct Script(PathBuf);

impl Script {
    fn hanging_at(machine: &Machine, step: &str) -> Self {
        let dir = machine.folder().join("bin");
        std::fs::create_dir(&dir).expect("made");
        let script = format!(
            "#!/bin/sh\n\
             for word; do\n\
             if [ \"$word\" = {step} ]; then : > {begun}; sleep 600 & sleep 600; fi\n\
             done\n\
             exec {real} \"$@\"\n",
            begun = dir.join("begun").display(),
            real = real_runc().display(),
        );
        std::fs::write(dir.join("runc"), script).expect("written");
        std::fs::set_permissions(dir.join("runc"), PermissionsExt::from_mode(0o755)).expect("set");
        Self(dir)
    }

    fn agent(&self, machine: &Machine, timeout: &str) -> Running {
        machine.start_with(|agent| {
            let path = format!("{}:{}", self.0.display(), search_path());
            agent.env("PATH", path).args(["--start-timeout", timeout]);
        })
    }

    /// Waits until it hangs.
    async fn hangs(&self) {
        let begun = Instant::now();
        while !self.0.join("begun").exists() {
            assert!(begun.elapsed() < PATIENCE, "the runtime was never run");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn search_path() -> String {
    std::env::var("PATH").expect("a search path")
}

fn real_runc() -> PathBuf {
    let path = search_path();
    let folders = path.split(':').map(|folder| Path::new(folder).join("runc"));
    folders
        .into_iter()
        .find(|program| program.exists())
        .expect("runc is installed")
}

fn by_runc(script: &str) -> String {
    format!("runtime: runc\n{}", one(script))
}

#[test]
fn sandbox_whose_runtime_hangs_fails_to_start_in_time_and_others_run() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let script = Script::hanging_at(&machine, "create");
        let _agent = script.agent(&machine, "1s");
        let mut session = leader.session().await;
        let empty = machine.traces().await;
        session
            .desire(&[
                desired(1, "s1", &by_runc("sleep 600")),
                desired(2, "s2", &one("sleep 600")),
            ])
            .await;
        script.hangs().await;
        session.reported(2, Phase::Running).await;
        let report = session.reported(1, Phase::Failed).await;
        assert_eq!(report.reason(), Reason::StartFailed, "{report:?}");
        assert!(
            report.message.contains("not started within 1s"),
            "{}",
            report.message
        );
        assert_eq!(machine.processes_of(1), [], "the script and its child");
        for uid in [1, 2] {
            session.remove(uid).await;
            session.reported(uid, Phase::Deleting).await;
        }
        machine.await_traces(&empty).await;
    });
}

#[test]
fn many_sandboxes_whose_runtime_hangs_keep_no_other_from_running_nor_each_other_from_being_removed() {
    // More than are started at the same time.
    const HANGING: u64 = 12;
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let script = Script::hanging_at(&machine, "create");
        let _agent = script.agent(&machine, "10m");
        let mut session = leader.session().await;
        session.desire(&[]).await;
        let empty = machine.traces().await;
        for uid in 1..=HANGING {
            session
                .add(desired(uid, &format!("s{uid}"), &by_runc("sleep 600")))
                .await;
        }
        script.hangs().await;
        session.add(desired(HANGING + 1, "good", &one("sleep 600"))).await;
        session.reported(HANGING + 1, Phase::Running).await;
        for uid in 1..=HANGING + 1 {
            session.remove(uid).await;
        }
        for uid in 1..=HANGING + 1 {
            session.reported(uid, Phase::Deleting).await;
        }
        machine.await_traces(&empty).await;
    });
}

#[test]
fn sandbox_whose_runtime_hangs_is_removed_at_once() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let script = Script::hanging_at(&machine, "create");
        let _agent = script.agent(&machine, "10m");
        let mut session = leader.session().await;
        let empty = machine.traces().await;
        session.desire(&[desired(1, "s1", &by_runc("sleep 600"))]).await;
        script.hangs().await;
        let begun = Instant::now();
        session.remove(1).await;
        session.reported(1, Phase::Deleting).await;
        assert!(begun.elapsed() < END, "{:?}", begun.elapsed());
        machine.await_traces(&empty).await;
    });
}

#[test]
fn sandbox_whose_runtime_hangs_when_it_is_to_end_is_ended_all_the_same() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let script = Script::hanging_at(&machine, "kill");
        let _agent = script.agent(&machine, "1m");
        let mut session = leader.session().await;
        let empty = machine.traces().await;
        let sandbox = desired(1, "s1", &by_runc("sleep 600"));
        session.desire(std::slice::from_ref(&sandbox)).await;
        session.reported(1, Phase::Running).await;
        let begun = Instant::now();
        session.desire(&[ended(sandbox)]).await;
        session.reported(1, Phase::Failed).await;
        assert!(begun.elapsed() < END, "{:?}", begun.elapsed());
        assert_eq!(machine.processes_of(1), []);
        session.remove(1).await;
        session.reported(1, Phase::Deleting).await;
        machine.await_traces(&empty).await;
    });
}
