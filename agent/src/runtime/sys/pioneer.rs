//! The first process in new namespaces, a user namespace among them, which no thread can make for itself. It is there
//! so that others can give the namespaces what they need and pin them, and does next to nothing itself.
//!
//! As posix_spawn(3) has it, the process shares our memory, and the thread that makes it stands still until it has ended:
//! nothing of ours is copied, however large we are.

use caps::CapSet;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, pipe2, read, write};
use std::ffi::{CString, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

/// What the process does takes a few hundred bytes; a build without optimization some thousand.
const STACK: usize = 64 << 10;
/// Of a stack, on every processor that we run on.
const ALIGNMENT: usize = 16;

/// What the process is to be.
#[derive(Debug)]
pub(crate) struct Pioneer<'a> {
    /// Made with the user namespace, and owned by it.
    pub(crate) namespaces: CloneFlags,
    /// Who owns the user namespace, on the host: what there is per user and is used up in it is that user's.
    pub(crate) owner: u32,
    /// What it mounts, in this order, once it is told to go on.
    pub(crate) mounts: &'a [Mounting],
}

/// A filesystem of the kernel's, such as `proc`.
#[derive(Debug)]
pub(crate) struct Mounting {
    pub(crate) kind: CString,
    pub(crate) target: CString,
}

/// Why there was no such process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PioneerError {
    #[error("cannot make a pipe: {0}")]
    Pipe(Errno),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("cannot become user {owner} for a moment: {source}")]
    Owner { owner: u32, source: io::Error },
    #[error("cannot make a process in a new user namespace: {0}")]
    Clone(Errno),
    #[error("cannot await the end of a process: {0}")]
    Wait(Errno),
}

/// How it went with what it mounts.
pub(crate) type Mounted = Result<(), (usize, Errno)>;

impl Pioneer<'_> {
    /// Makes it, and has it wait while `outside`, which is given its number, does its part. It has ended afterwards.
    pub(crate) fn explore<T>(&self, outside: impl FnOnce(Pid) -> T) -> Result<(T, Mounted), PioneerError> {
        let (heard, there) = pipe2(OFlag::O_CLOEXEC).map_err(PioneerError::Pipe)?;
        let (go, tell) = pipe2(OFlag::O_CLOEXEC).map_err(PioneerError::Pipe)?;
        let life = Life {
            there: there.as_raw_fd(),
            go: go.as_raw_fd(),
            tell: tell.as_raw_fd(),
            pid: AtomicI32::new(0),
            mounts: self.mounts,
            done: AtomicUsize::new(0),
            fault: AtomicI32::new(0),
        };
        let done = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("pioneer".to_owned());
            let lived = thread
                .spawn_scoped(scope, || self.live(&life, there))
                .map_err(PioneerError::Thread)?;
            // A word, or the end of the pipe: then it was not made.
            let is_there = read(&heard, &mut [0]) == Ok(1);
            let done = is_there.then(|| outside(Pid::from_raw(life.pid.load(Ordering::Acquire))));
            // Nobody listens where it has not come so far; and the end of the pipe is a word as well.
            write(&tell, &[1]).ok();
            drop(tell);
            match lived.join() {
                Ok(lived) => lived.map(|()| done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })?;
        let done = done.ok_or(PioneerError::Clone(Errno::ECHILD))?;
        let mounted = match life.fault.load(Ordering::Acquire) {
            0 => Ok(()),
            fault => Err((life.done.load(Ordering::Acquire), Errno::from_raw(fault))),
        };
        Ok((done, mounted))
    }

    /// On a thread of its own, which ends with it: what it changes of itself is nobody else's.
    fn live(&self, life: &Life<'_>, there: OwnedFd) -> Result<(), PioneerError> {
        // A handler of ours must not run in the other process.
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).map_err(PioneerError::Clone)?;
        become_owner(self.owner).map_err(|source| PioneerError::Owner {
            owner: self.owner,
            source,
        })?;
        let pid = divide(self.namespaces, life).map_err(PioneerError::Clone)?;
        drop(there);
        // It tells its end to nobody by a signal.
        waitpid(pid, Some(WaitPidFlag::__WALL))
            .map(drop)
            .map_err(PioneerError::Wait)
    }
}

/// Changes the calling thread, and no other, which is why the C library can't be asked to. It keeps all that root may do.
fn become_owner(owner: u32) -> io::Result<()> {
    let unchanged = u32::MAX;
    // SAFETY: setresuid(2) takes three numbers, and no pointer.
    let done = unsafe { libc::syscall(libc::SYS_setresuid, unchanged, owner, unchanged) };
    Errno::result(done)?;
    let kept = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    caps::set(None, CapSet::Effective, &kept).map_err(io::Error::other)?;
    // Of the process as a whole, and lost with each change of a user. Not what it was before: another thread may be in the
    // midst of the same.
    prctl::set_dumpable(true)?;
    Ok(())
}

/// What the process is told, and tells; in memory that it shares with us.
struct Life<'a> {
    there: RawFd,
    go: RawFd,
    tell: RawFd,
    pid: AtomicI32,
    mounts: &'a [Mounting],
    /// How many of them are mounted.
    done: AtomicUsize,
    /// What the next one has failed with.
    fault: AtomicI32,
}

/// Returns once the process has ended, which is its child then and waits to be waited for.
fn divide(namespaces: CloneFlags, life: &Life<'_>) -> Result<Pid, Errno> {
    let mut stack = vec![0_u8; STACK + ALIGNMENT];
    let top = stack.as_mut_ptr().wrapping_add(STACK);
    let top = top.wrapping_add(top.align_offset(ALIGNMENT));
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID | libc::CLONE_NEWUSER;
    let flags = flags | namespaces.bits();
    let life: *const Life<'_> = life;
    // SAFETY: with CLONE_VFORK this call returns when the process has ended, so that its stack and `life` outlive it and
    // nobody else uses this thread's storage, which it shares. `live` makes system calls only: it allocates nothing, takes
    // no lock and can't panic. The number is written to memory that outlives the call and is of its size.
    let pid = unsafe {
        libc::clone(
            live,
            top.cast(),
            flags,
            life.cast_mut().cast(),
            (*life).pid.as_ptr(),
        )
    };
    drop(stack);
    Errno::result(pid).map(Pid::from_raw)
}

/// The process. Where we die it finds its pipe at its end, and ends as well.
extern "C" fn live(life: *mut c_void) -> c_int {
    let word = [1_u8];
    let mut heard = [0_u8];
    // SAFETY: `divide` hands in a `Life` that outlives the process. All calls are system calls on its numbers, on memory of
    // this function, or on C strings of it.
    unsafe {
        let life = &*life.cast::<Life<'_>>();
        // Else it would wait for itself.
        libc::syscall(libc::SYS_close, life.tell);
        libc::syscall(libc::SYS_write, life.there, word.as_ptr(), word.len());
        while libc::syscall(libc::SYS_read, life.go, heard.as_mut_ptr(), heard.len()) < 0 {}
        for mounting in life.mounts {
            let kind = mounting.kind.as_ptr();
            let none = std::ptr::null();
            if libc::mount(kind, mounting.target.as_ptr(), kind, 0, none) != 0 {
                life.fault.store(*libc::__errno_location(), Ordering::Release);
                break;
            }
            life.done.fetch_add(1, Ordering::Release);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn pioneer(mounts: &[Mounting]) -> Pioneer<'_> {
        Pioneer {
            namespaces: CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS,
            owner: 1_000_000,
            mounts,
        }
    }

    #[test]
    fn process_is_there_meanwhile_and_gone_afterwards() {
        let own = fs::read_link("/proc/self/ns/user").expect("read");
        let ((pid, status), mounted) = pioneer(&[])
            .explore(|pid| {
                let theirs = fs::read_link(format!("/proc/{pid}/ns/user")).expect("it is there");
                assert_ne!(theirs, own);
                let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
                (pid, status)
            })
            .expect("made; run this as root");
        assert_eq!(mounted, Ok(()));
        // Real, effective, saved, of files: as they are on the host.
        assert!(status.contains("Uid:\t0\t1000000\t0\t1000000\n"), "{status}");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        assert!(
            nix::unistd::geteuid().is_root(),
            "only for a moment, on one thread"
        );
        // Others of these tests, which are threads of one process, may be in the midst of it.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !prctl::get_dumpable().expect("asked") {
            assert!(std::time::Instant::now() < end, "it stays closed off");
            std::thread::yield_now();
        }
    }

    #[test]
    fn process_of_a_panic_is_gone_as_well() {
        let mut seen = None;
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pioneer(&[]).explore(|pid| {
                seen = Some(pid);
                panic!("a test of ours");
            })
        }));
        assert!(panicked.is_err());
        let pid = seen.expect("it was there");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn mount_that_fails_is_told() {
        let mounts = ["tmpfs", "nonsense", "tmpfs"].map(|kind| Mounting {
            kind: CString::new(kind).expect("no NUL"),
            target: c"/tmp".to_owned(),
        });
        let ((), mounted) = pioneer(&mounts).explore(|_| ()).expect("made; run this as root");
        assert_eq!(mounted, Err((1, Errno::ENODEV)));
    }

    #[test]
    fn many_at_once_do_not_wait_for_each_other() {
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| pioneer(&[]).explore(|_| ()).expect("made; run this as root"));
            }
        });
    }
}
