//! Processes beside containers' programs, and those who see what containers write: alike with every runtime.

use crate::fixture::{PATIENCE, Sandbox, is_installed};
use crate::{DEAF, ended};
use agent::runtime::monitor::{self, Guest, GuestEnd, Monitor, MonitorError};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use proto::wire::{MonitorExec, MonitorTerminal, Runtime};
use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

/// Whose processes are some of the host.
const RUNTIMES: [Runtime; 3] = [Runtime::Native, Runtime::Runc, Runtime::Crun];

/// With gVisor as well, where it is installed.
fn all() -> impl Iterator<Item = Runtime> {
    let gvisor = Some(Runtime::Runsc).filter(|runtime| is_installed(*runtime));
    RUNTIMES.into_iter().chain(gvisor)
}

/// One that runs a program which never ends by itself.
async fn running(runtime: Runtime) -> (Sandbox, Monitor) {
    let sandbox = Sandbox::new(runtime, &format!("name: c, {DEAF}"));
    let monitor = sandbox.launch().await;
    sandbox.said("c", "there").await;
    monitor.started().await;
    (sandbox, monitor)
}

pub(crate) fn order(args: &[&str]) -> MonitorExec {
    MonitorExec {
        container: "c".to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..Default::default()
    }
}

/// A process and our ends of its streams.
pub(crate) struct Running {
    guest: Guest,
    stdin: File,
    pub(crate) stdout: File,
    stderr: File,
}

pub(crate) async fn start(sandbox: &Sandbox, order: MonitorExec) -> Result<Running, MonitorError> {
    let pipe = || io::pipe().expect("a pipe");
    let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) = (pipe(), pipe(), pipe());
    let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let guest = monitor::exec(&sandbox.monitor_dir(), order, &streams).await?;
    Ok(Running {
        guest,
        stdin: File::from(OwnedFd::from(to_stdin)),
        stdout: File::from(OwnedFd::from(from_stdout)),
        stderr: File::from(OwnedFd::from(from_stderr)),
    })
}

/// Awaits something that blocks.
async fn within<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(act)).await;
    done.unwrap_or_else(|_| panic!("{what} takes too long"))
        .expect("no panic")
}

async fn rest(mut file: File) -> Vec<u8> {
    within("the end of a stream", move || {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("read");
        bytes
    })
    .await
}

async fn end(guest: &mut Guest) -> GuestEnd {
    let ended = tokio::time::timeout(PATIENCE, guest.ended()).await;
    ended.expect("it ends in time").expect("the monitor says how")
}

/// Runs it to its end, with this as its input.
pub(crate) async fn run(
    sandbox: &Sandbox,
    order: MonitorExec,
    input: &'static [u8],
) -> (GuestEnd, String, String) {
    let Running {
        mut guest,
        mut stdin,
        stdout,
        stderr,
    } = start(sandbox, order).await.expect("it is accepted");
    let write = within("its input", move || stdin.write_all(input).ok());
    let (_, out, err, ended) = tokio::join!(write, rest(stdout), rest(stderr), end(&mut guest));
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (ended, text(out), text(err))
}

fn exited(code: i32) -> GuestEnd {
    GuestEnd {
        code,
        ..Default::default()
    }
}

#[tokio::test]
async fn command_ends_with_its_code_and_what_it_wrote() {
    for runtime in all() {
        let (sandbox, _monitor) = running(runtime).await;
        let (ended, out, err) = run(
            &sandbox,
            order(&["sh", "-c", "echo out; echo err >&2; cat; exit 3"]),
            b"in",
        )
        .await;
        assert_eq!(
            (ended, &*out, &*err),
            (exited(3), "out\nin", "err\n"),
            "{runtime:?}"
        );
        let (ended, ..) = run(&sandbox, order(&["sh", "-c", "kill -9 $$"]), b"").await;
        assert_eq!(ended, exited(137), "{runtime:?}");
        let mut with_env = order(&["sh", "-c", "echo $A $HOME"]);
        with_env.env = vec!["A=1=2".to_owned()];
        let (ended, out, _) = run(&sandbox, with_env, b"").await;
        assert_eq!((ended, &*out), (exited(0), "1=2 /\n"), "{runtime:?}");
        for (program, code) in [("nothing", 127), ("/no/such", 127), ("/etc", 126)] {
            // What it says on stderr differs.
            let (ended, out, _) = run(&sandbox, order(&[program]), b"").await;
            assert_eq!(ended.code, code, "{runtime:?}: {ended:?}");
            assert!(!ended.message.is_empty(), "{runtime:?}: {ended:?}");
            assert_eq!(out, "", "{runtime:?}");
        }
        let left = std::fs::read_dir(sandbox.monitor_dir().join("exec")).expect("a folder");
        assert_eq!(left.count(), 0, "{runtime:?} leaves files");
    }
}

/// More than any pipe holds.
static FLOOD: [u8; 3 << 20] = [b'x'; 3 << 20];

#[tokio::test]
async fn large_input_comes_back_to_the_last_byte() {
    for runtime in all() {
        let (sandbox, _monitor) = running(runtime).await;
        let (ended, out, err) = run(&sandbox, order(&["cat"]), &FLOOD).await;
        assert_eq!((ended, &*err), (exited(0), ""));
        assert!(out.as_bytes() == FLOOD, "{} bytes came back", out.len());
    }
}

#[tokio::test]
async fn command_may_do_what_the_containers_program_may_and_no_more() {
    const ASK: &str = "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Seccomp_filters):' /proc/$1/status; \
                       cat /proc/$1/cgroup; cat /proc/$1/oom_score_adj; cd /proc/$1/ns; \
                       for n in mnt net pid uts ipc cgroup user; do ls -l $n; done | grep -o '[a-z]*:.[0-9]*.$'";
    for runtime in RUNTIMES {
        let (sandbox, _monitor) = running(runtime).await;
        let ask = async |whom: &str| {
            let (ended, out, err) = run(&sandbox, order(&["sh", "-c", ASK, "sh", whom]), b"").await;
            assert_eq!((ended, &*err), (exited(0), ""), "{runtime:?}");
            out
        };
        let (first, second) = (ask("1").await, ask("self").await);
        assert!(
            first.contains("Seccomp:\t2") && first.contains("NoNewPrivs:\t1"),
            "{first}"
        );
        assert_eq!(first, second, "{runtime:?}");
    }
}

#[tokio::test]
async fn terminal_is_refused_where_there_can_be_none() {
    if !is_installed(Runtime::Runsc) {
        return;
    }
    let (sandbox, _monitor) = running(Runtime::Runsc).await;
    let mut order = order(&["sh"]);
    order.terminal = Some(MonitorTerminal {
        socket: "t.console".to_owned(),
        rows: 30,
        columns: 100,
    });
    let guest = monitor::exec(&sandbox.monitor_dir(), order, &[]).await;
    let ended = end(&mut guest.expect("accepted")).await;
    assert_eq!(ended.code, 126);
    assert!(ended.message.contains("no terminal"), "{ended:?}");
}

#[tokio::test]
async fn command_that_nobody_listens_to_is_ended_with_its_children() {
    const PATIENT: &str = "sleep 600 & echo there; wait";
    const DEAF_TO_HANGUP: &str = "trap '' HUP; sleep 600 & echo there; wait";
    for runtime in RUNTIMES {
        let (sandbox, _monitor) = running(runtime).await;
        for script in [PATIENT, DEAF_TO_HANGUP] {
            let Running {
                guest,
                stdin,
                mut stdout,
                ..
            } = start(&sandbox, order(&["sh", "-c", script]))
                .await
                .expect("accepted");
            let mut there = [0; 6];
            let stdout = within("a word", move || {
                stdout.read_exact(&mut there).expect("read");
                stdout
            })
            .await;
            drop(guest);
            // Ends when nobody has it open any more.
            assert_eq!(rest(stdout).await, b"");
            drop(stdin);
        }
        // One that has not begun yet.
        let Running { guest, stdout, .. } =
            start(&sandbox, order(&["sleep", "600"])).await.expect("accepted");
        drop(guest);
        assert_eq!(rest(stdout).await, b"");
    }
}

#[tokio::test]
async fn signals_reach_a_command_and_the_containers_end_ends_it() {
    for runtime in RUNTIMES {
        let (sandbox, monitor) = running(runtime).await;
        let script = "trap 'echo heard; exit 5' USR1; echo there; while :; do sleep 0.05; done";
        let mut run = start(&sandbox, order(&["sh", "-c", script]))
            .await
            .expect("accepted");
        let mut stdout = run.stdout;
        let stdout = within("a word", move || {
            stdout.read_exact(&mut [0; 6]).expect("read");
            stdout
        })
        .await;
        run.guest.signal(libc::SIGUSR1).await.expect("sent");
        assert_eq!(end(&mut run.guest).await, exited(5), "{runtime:?}");
        assert_eq!(rest(stdout).await, b"heard\n");

        let mut run = start(&sandbox, order(&["sleep", "600"])).await.expect("accepted");
        let signalled = async {
            // It has begun once this one, which waits for it, has ended.
            let mut next = start(&sandbox, order(&["true"])).await.expect("accepted");
            end(&mut next.guest).await;
            monitor.stop(std::time::Duration::ZERO).await.expect("told");
        };
        let (ended_so, ()) = tokio::join!(end(&mut run.guest), signalled);
        assert_eq!(ended_so, exited(137), "{runtime:?}");
        let last = ended(&monitor).await;
        sandbox.assert_nothing_is_left(&last);
        match start(&sandbox, order(&["true"])).await {
            Err(MonitorError::Ended { .. }) => {}
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
}

#[tokio::test]
async fn commands_of_one_sandbox_are_bounded_and_bad_ones_are_refused() {
    let (sandbox, _monitor) = running(Runtime::Native).await;
    let refusal = async |order: MonitorExec| match start(&sandbox, order).await {
        Err(MonitorError::Refused { why, .. }) => why,
        other => panic!("{:?}", other.map(|_| ())),
    };
    let mut elsewhere = order(&["true"]);
    elsewhere.container = "d".to_owned();
    assert_eq!(refusal(elsewhere).await, "there is no container d");
    assert_eq!(refusal(order(&[])).await, "this is no command");
    assert!(
        refusal(order(&["echo", &"x".repeat(65 << 10)]))
            .await
            .contains("longer than")
    );
    let mut guests = Vec::new();
    for _ in 0..32 {
        guests.push(start(&sandbox, order(&["sleep", "600"])).await.expect("accepted"));
    }
    assert!(refusal(order(&["true"])).await.starts_with("32 commands"));
}

#[tokio::test]
async fn watcher_sees_bytes_as_they_are_written_and_is_told_what_it_missed() {
    let script =
        "echo there; read x < /v/first; printf part; read x < /v/second; yes | head -c 200000; exit 4";
    for runtime in RUNTIMES {
        let sandbox = Sandbox::new(runtime, &format!("name: c, args: [sh, -c, \"{script}\"]"));
        // One for each word: whoever opens the same one again may still find the writer of the word before.
        let [first, second] = ["first", "second"].map(|name| {
            let word = sandbox.in_volume(name);
            nix::unistd::mkfifo(&word, nix::sys::stat::Mode::empty()).expect("made");
            std::fs::set_permissions(&word, std::fs::Permissions::from_mode(0o666)).expect("opened");
            word
        });
        let monitor = sandbox.launch().await;
        sandbox.said("c", "there").await;
        monitor.started().await;
        let pipe = || io::pipe().expect("a pipe");
        let ((mut from_stdout, stdout), (_from_stderr, stderr)) = (pipe(), pipe());
        let streams = [stdout.as_fd(), stderr.as_fd()];
        let attached = monitor::attach_to(&sandbox.monitor_dir(), "c", streams).await;
        let mut guest = attached.expect("it runs");
        drop((stdout, stderr));
        std::fs::write(&first, "\n").expect("written");
        let mut stdout = within("a part of a line", move || {
            let mut part = [0; 4];
            from_stdout.read_exact(&mut part).expect("read");
            assert_eq!(&part, b"part");
            File::from(OwnedFd::from(from_stdout))
        })
        .await;
        std::fs::write(&second, "\n").expect("written");
        let how = end(&mut guest).await;
        let mut seen = Vec::new();
        stdout.read_to_end(&mut seen).expect("read");
        assert_eq!(how.code, 4);
        assert_eq!(how.lost_bytes + seen.len() as u64, 200_000, "{runtime:?}");
        assert!(how.lost_bytes > 0, "a pipe holds 64 KiB");
    }
}

fn master(listener: &UnixListener) -> File {
    let (socket, _) = listener.accept().expect("the runtime connects");
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut buffer = [0; 4_096];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::empty(),
    );
    let message = message.expect("received");
    let mut parts = message.cmsgs().expect("whole");
    match parts.next() {
        Some(ControlMessageOwned::ScmRights(fds)) => owned(fds[0]),
        other => panic!("{other:?}"),
    }
}

#[allow(unsafe_code)]
fn owned(fd: RawFd) -> File {
    // SAFETY: it was received right now, and nothing else owns it.
    unsafe { File::from_raw_fd(fd) }
}

#[tokio::test]
async fn command_in_a_terminal_has_one_of_the_size_that_was_asked_for() {
    for runtime in RUNTIMES {
        let (sandbox, _monitor) = running(runtime).await;
        let listener = UnixListener::bind(sandbox.monitor_dir().join("t.console")).expect("bound");
        let mut order = order(&["sh", "-c", "tty; stty size; echo $TERM; read x; exit 9"]);
        order.terminal = Some(MonitorTerminal {
            socket: "t.console".to_owned(),
            rows: 30,
            columns: 100,
        });
        let mut guest = monitor::exec(&sandbox.monitor_dir(), order, &[])
            .await
            .expect("accepted");
        let talk = within("a talk over a terminal", move || {
            let mut master = master(&listener);
            let mut seen = String::new();
            let mut buffer = [0; 256];
            while !seen.contains("xterm\r\n") {
                let length = master.read(&mut buffer).expect("read");
                seen += &String::from_utf8_lossy(&buffer[..length]);
            }
            master.write_all(b"\n").expect("written");
            (seen, master)
        });
        let (seen, _master) = talk.await;
        assert_eq!(seen, "/dev/pts/0\r\n30 100\r\nxterm\r\n", "{runtime:?}");
        assert_eq!(end(&mut guest).await, exited(9), "{runtime:?}");
    }
}
