//! What a container can use up, and what it may do: the same for each runtime. Many rows share a container, since a
//! start is what takes long.

use crate::fixture::Sandbox;
use crate::{Want, check, ended, runtimes};
use proto::wire::{MonitorOutcome, Reason};
use std::time::{Duration, Instant};

const FULL: &str = "No space left on device";
const READ_ONLY: &str = "Read-only file system";

/// Every place that a container may write to ends in ENOSPC, by size and by number of files, and nothing is killed
/// for it; what is read-only stays so beside others who write.
#[tokio::test]
async fn full_places_say_so_and_read_only_ones_refuse() {
    let fill = "for place in /open /tmp /dev/shm /t /v; do echo $place; \
                dd if=/dev/zero of=$place/fill bs=64k 2>&1 | grep -o 'No space left on device'; rm -f $place/fill; done; \
                for place in /open /tmp /t /v; do i=0; echo $place; \
                (while echo > $place/$i; do i=$((i+1)); done) 2>&1 | grep -o 'No space left on device'; \
                rm -f $place/*; done; echo all";
    let refused = "(echo > /v/x) 2>&1 | grep -o 'Read-only file system'; \
                   (echo > /open/x) 2>&1 | grep -o 'Read-only file system'; \
                   echo > /tmp/x && echo tmp; echo $KEY; cat /proc/self/cwd/../etc/hostname; \
                   grep CapBnd /proc/self/status; hostname";
    let containers = format!(
        "name: writer, tmpfs: [{{mount_path: /t, options: [size=256k]}}], args: [sh, -c, {fill:?}]\n\
         name: reader, read_only: true, volume_mounts: [{{name: v, mount_path: /v, read_only: true}}], \
         env: [KEY=value], work_dir: /open, cap_drop: [ALL], cap_add: [CHOWN], args: [sh, -c, {refused:?}]"
    );
    let want = Want {
        outcome: MonitorOutcome::Succeeded,
        containers: &[
            (
                Some(0),
                false,
                &[
                    "/open", FULL, "/tmp", FULL, "/dev/shm", FULL, "/t", FULL, "/v", FULL, "/open", FULL,
                    "/tmp", FULL, "/t", FULL, "/v", FULL, "all",
                ],
            ),
            (
                Some(0),
                false,
                &[
                    READ_ONLY,
                    READ_ONLY,
                    "tmp",
                    "value",
                    "box",
                    "CapBnd:\t0000000000000001",
                    "box",
                ],
            ),
        ],
        ..Default::default()
    };
    check(&containers, want).await;
}

#[tokio::test]
async fn fork_bomb_is_bounded() {
    // Processes that do nothing but wait for a line that never comes.
    let script = "mkfifo /tmp/f; exec 3<>/tmp/f; (while :; do read x <&3 & done) 2>/tmp/why; \
                  grep -o 'Resource temporarily unavailable' /tmp/why; echo bounded";
    let containers = format!(
        "name: bomb, resource: {{cpu: 2, memory: 700Mi, ephemeral_storage: 1Mi}}, args: [sh, -c, {script:?}]"
    );
    let want = Want {
        outcome: MonitorOutcome::Succeeded,
        containers: &[(Some(0), false, &["Resource temporarily unavailable", "bounded"])],
        ..Default::default()
    };
    check(&containers, want).await;
}

/// As the host counts it; a busy machine gives less than is allowed, never more.
#[tokio::test]
async fn cpu_time_is_held_to_what_was_asked_for() {
    const SHARE: f64 = 0.2;
    const SPAN: Duration = Duration::from_secs(1);
    /// The kernel gives out cpu time in periods of 100 ms, and settles accounts a little late.
    const TOLERANCE: f64 = 0.06;
    for runtime in runtimes() {
        let containers = "name: c, resource: {cpu: 200m, memory: 16Mi, ephemeral_storage: 1Mi}, \
                          args: [sh, -c, 'echo there; while :; do :; done']";
        let sandbox = Sandbox::new(runtime, containers);
        let monitor = sandbox.launch().await;
        sandbox.said("c", "there").await;
        let (begun, before) = (Instant::now(), sandbox.cpu_time(0));
        tokio::time::sleep(SPAN).await;
        let used = (sandbox.cpu_time(0) - before).as_secs_f64() / begun.elapsed().as_secs_f64();
        assert!(
            used > 0.0 && used < SHARE + TOLERANCE,
            "{runtime:?} used {used} cores of {SHARE}"
        );
        monitor.stop(Duration::ZERO).await.expect("stopped");
        let last = ended(&monitor).await;
        assert_eq!(
            (last.outcome(), last.reason()),
            (MonitorOutcome::Stopped, Reason::Unspecified)
        );
        sandbox.assert_nothing_is_left(&last);
    }
}
