//! An agent whose system calls are watched: those that change something outside of it are counted, and right before
//! the one that a test names the process is killed. So it dies at every boundary at which it can die, and the agent
//! itself has no part in it.

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// The words before those of a program to be watched: it waits until it is.
pub(crate) const WAITING: [&str; 4] = ["/bin/sh", "-c", "read -r _ && exec \"$@\" </dev/null", "sh"];

/// Nobody else sends it, and it is ignored by who has no use for it.
const WAKE: Signal = Signal::SIGURG;

/// Killed when dropped.
pub(crate) struct Watched {
    pid: Pid,
    fate: Arc<Mutex<Option<Fate>>>,
    watcher: Option<JoinHandle<()>>,
}

/// The call that is not made any more.
struct Fate {
    /// What the names of those that are counted begin with.
    kind: &'static str,
    /// Up to it, with it.
    left: u64,
}

/// The arguments of a call, as far as they are looked at.
struct Call {
    number: i64,
    args: [u64; 5],
}

impl Fate {
    fn is_met_by(&mut self, effect: &str) -> bool {
        let is_counted = effect.starts_with(self.kind);
        self.left -= u64::from(is_counted && self.left > 0);
        is_counted && self.left == 0
    }
}

impl Watched {
    /// Starts the program behind [`WAITING`], watched from its first instruction on.
    pub(crate) async fn start(command: Command) -> Self {
        let fate = Arc::new(Mutex::new(None));
        let (tell, told) = oneshot::channel();
        let known = fate.clone();
        // Only the thread that began to watch may go on with it. It has the network of this one.
        let watcher = std::thread::spawn(move || {
            let mut child = seize(command);
            let pid = Pid::from_raw(i32::try_from(child.id()).expect("a number"));
            tell.send(pid).ok();
            watch(pid, &known);
            // Its end was seen in there, together with those of its threads.
            child.wait().ok();
        });
        let pid = told.await.expect("it starts");
        Self {
            pid,
            fate,
            watcher: Some(watcher),
        }
    }

    /// Right before the `number`th call of that kind from now on, it dies. The first is 1.
    pub(crate) fn die_at(&self, kind: &'static str, number: u64) {
        let fate = Fate { kind, left: number };
        *self.fate.lock().expect("whole") = Some(fate);
        // What stops it for us, and means nothing to it.
        kill(self.pid, WAKE).expect("it is there");
    }

    /// Ends it, if it has not died yet.
    pub(crate) fn kill(&mut self) {
        // Its watcher waits for it; until that it keeps its number.
        if let Some(watcher) = self.watcher.take() {
            if !watcher.is_finished() {
                kill(self.pid, Signal::SIGKILL).ok();
            }
            watcher.join().expect("watched to its end");
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the program, which waits for our word until it is watched.
fn seize(mut command: Command) -> Child {
    command.stdin(Stdio::piped());
    let mut child = command.spawn().expect("a shell");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a number"));
    // Threads are watched as well, and the processes that it starts are not.
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options).expect("watched");
    ptrace::interrupt(pid).expect("stopped");
    let mut word = child.stdin.take().expect("a pipe");
    word.write_all(b"\n").expect("said");
    child
}

/// Until the process ends. Until it is to die it runs at its full speed.
fn watch(process: Pid, fate: &Mutex<Option<Fate>>) {
    let mut counts = false;
    loop {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let (thread, signal) = match waitpid(Pid::from_raw(-1), Some(flags)) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) if pid == process => {
                return;
            }
            Ok(WaitStatus::PtraceSyscall(thread)) => {
                if let Some(effect) = entered(thread).and_then(|call| effect(process, &call))
                    && let Some(fate) = fate.lock().expect("whole").as_mut()
                    && fate.is_met_by(&effect)
                {
                    // What is killed where it enters a call does not make it.
                    kill(process, Signal::SIGKILL).expect("it is there");
                }
                (thread, None)
            }
            Ok(WaitStatus::Stopped(thread, WAKE)) => {
                counts = true;
                interrupt_others(process, thread);
                (thread, None)
            }
            Ok(WaitStatus::Stopped(thread, signal)) => (thread, Some(signal)),
            Ok(WaitStatus::PtraceEvent(thread, ..)) => (thread, None),
            Ok(_) => continue,
            Err(fault) => panic!("cannot watch: {fault}"),
        };
        let went_on = if counts {
            ptrace::syscall(thread, signal)
        } else {
            ptrace::cont(thread, signal)
        };
        match went_on {
            // It was killed meanwhile.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(fault) => panic!("cannot go on with {thread}: {fault}"),
        }
    }
}

/// Each stops for a moment, and is watched from then on.
fn interrupt_others(process: Pid, except: Pid) {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter();
    for thread in threads.flatten().flatten() {
        let thread = thread.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(thread) = thread.map(Pid::from_raw).filter(|thread| *thread != except) {
            // One that has just ended needs none.
            ptrace::interrupt(thread).ok();
        }
    }
}

/// `None` where the thread returns from a call, or is gone.
fn entered(thread: Pid) -> Option<Call> {
    let info = ptrace::syscall_info(thread).ok()?;
    let registers = ptrace::getregs(thread).ok()?;
    #[cfg(target_arch = "x86_64")]
    let call = Call {
        number: i64::try_from(registers.orig_rax).ok()?,
        args: [
            registers.rdi,
            registers.rsi,
            registers.rdx,
            registers.r10,
            registers.r8,
        ],
    };
    #[cfg(target_arch = "aarch64")]
    let call = Call {
        number: i64::try_from(registers.regs[8]).ok()?,
        args: [0, 1, 2, 3, 4].map(|i| registers.regs[i]),
    };
    (info.op == libc::PTRACE_SYSCALL_INFO_ENTRY).then_some(call)
}

/// What the call changes outside of the process, for a person; `None`: nothing.
fn effect(process: Pid, call: &Call) -> Option<String> {
    let file = || {
        let fd = PathBuf::from(format!("/proc/{process}/fd/{}", call.args[0]));
        std::fs::read_link(fd).unwrap_or_default()
    };
    let name = match call.number {
        libc::SYS_mount => "mount",
        libc::SYS_umount2 => "umount2",
        libc::SYS_move_mount => "move_mount",
        libc::SYS_mount_setattr => "mount_setattr",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir => "mkdir",
        libc::SYS_mkdirat => "mkdirat",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rmdir => "rmdir",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => "unlink",
        libc::SYS_unlinkat => "unlinkat",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => "rename",
        libc::SYS_renameat => "renameat",
        libc::SYS_renameat2 => "renameat2",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod => "chmod",
        libc::SYS_fchmodat => "fchmodat",
        libc::SYS_fchownat => "fchownat",
        libc::SYS_fdatasync => "fdatasync",
        libc::SYS_fsync => "fsync",
        libc::SYS_bind => "bind",
        libc::SYS_unshare => "unshare",
        libc::SYS_setns => "setns",
        libc::SYS_sethostname => "sethostname",
        libc::SYS_kill => "kill",
        libc::SYS_pidfd_send_signal => "pidfd_send_signal",
        libc::SYS_clone => "clone",
        libc::SYS_clone3 => "clone3",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork => "fork",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork => "vfork",
        libc::SYS_sendmsg => "sendmsg",
        // To an address: the kernel's, as those who listen elsewhere are connected to.
        libc::SYS_sendto if call.args[4] != 0 => "sendto",
        libc::SYS_openat if call.args[2] & libc::O_CREAT as u64 != 0 => "openat(O_CREAT)",
        libc::SYS_write | libc::SYS_pwrite64 if call.args[0] > 2 && file().is_absolute() => {
            return Some(format!("write {}", file().display()));
        }
        _ => return None,
    };
    Some(name.to_owned())
}
