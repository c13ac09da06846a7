//! Which system calls a container may make. The default is Docker's (module `github.com/moby/profiles/seccomp`,
//! v0.3.0), as data: a call that is not listed fails with EPERM.
//!
//! Pure, but for [`load`], which reads a profile from the agent's own folder. Called by [`super::bundle`] and
//! by who prepares its input. [`filter`] makes instructions for the kernel of a profile.

mod filter;

pub use filter::{FilterError, Filters, compiled};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use proto::id::Name;
use std::path::{Path, PathBuf};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// Bits of clone(2) that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// A profile is some 20 KB of JSON.
const MAX_PROFILE: u64 = 1 << 20;

/// For every container.
const ALWAYS: &str = "
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2
fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat
fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait
futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid
getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt
get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init
inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64
ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset
landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr
_llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret
mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open
mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget
msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat
openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64
prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6
pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall
riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam
sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto
setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority
setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list
setsid setsockopt set_thread_area set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget
shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs
statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create
timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit
umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid
waitpid write writev";

/// On one kind of processor only, in Rust's words for it.
const BY_ARCHITECTURE: [(&str, &str); 3] = [
    ("x86_64", "arch_prctl modify_ldt"),
    (
        "aarch64",
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ),
    ("riscv64", "riscv_flush_icache"),
];

/// For containers that hold the capability.
const BY_CAPABILITY: [(Capability, &str); 14] = [
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module init_module finit_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "iopl ioperm"),
    (
        Capability::SysTime,
        "settimeofday stime clock_settime clock_settime64",
    ),
    (Capability::SysTtyConfig, "vhangup"),
    (
        Capability::SysNice,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Socket families below this number are allowed: any, Unix and IPv4.
const FAMILIES_BELOW: u64 = 3;
/// And these, IPv6 (10), netlink (16) and packets (17) among them. Left out are, beside the long dead, the kernel's
/// crypto (38) and the hypervisor's sockets (40).
const FAMILIES: [u64; 29] = [
    7, 8, 9, 10, 13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43,
    44, 45,
];
/// The execution domains that are allowed: Linux, 32 bit, 2.6 version numbers, both, and asking (`0xffffffff`).
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("cannot read the seccomp profile {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the seccomp profile {path} is {size} bytes long, at most {MAX_PROFILE} are allowed")]
    Long { path: PathBuf, size: u64 },
    #[error("the seccomp profile {path} is malformed: {source}")]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(
        "the seccomp profile {path} has `{field}`, which only Docker understands; write it without conditions"
    )]
    Template { path: PathBuf, field: &'static str },
}

/// The default profile of a container that holds `capabilities`.
///
/// # Errors
/// None in practice; the type is the builder's.
pub fn default_profile(capabilities: &Capabilities) -> Result<LinuxSeccomp, OciSpecError> {
    let architecture = std::env::consts::ARCH;
    let mut calls = vec![allow(ALWAYS, Vec::new())?];
    for (_, names) in BY_ARCHITECTURE.iter().filter(|(name, _)| *name == architecture) {
        calls.push(allow(names, Vec::new())?);
    }
    for (_, names) in BY_CAPABILITY
        .iter()
        .filter(|(capability, _)| capabilities.contains(capability))
    {
        calls.push(allow(names, Vec::new())?);
    }
    calls.push(allow(
        "socket",
        vec![argument(LinuxSeccompOperator::ScmpCmpLt, FAMILIES_BELOW, None)?],
    )?);
    for family in FAMILIES {
        calls.push(allow(
            "socket",
            vec![argument(LinuxSeccompOperator::ScmpCmpEq, family, None)?],
        )?);
    }
    for personality in PERSONALITIES {
        calls.push(allow(
            "personality",
            vec![argument(LinuxSeccompOperator::ScmpCmpEq, personality, None)?],
        )?);
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        // No namespaces of one's own.
        let none = argument(LinuxSeccompOperator::ScmpCmpMaskedEq, NAMESPACE_FLAGS, Some(0))?;
        calls.push(allow("clone", vec![none])?);
        // Its flags are out of a filter's sight; "no such call" makes programs use clone.
        let clone3 = LinuxSyscallBuilder::default().names(["clone3".to_owned()]);
        calls.push(
            clone3
                .action(LinuxSeccompAction::ScmpActErrno)
                .errno_ret(ENOSYS)
                .build()?,
        );
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures(architectures(architecture))
        .syscalls(calls)
        .build()
}

/// A profile of the agent's own: `folder/<name>.json`, in the form of the OCI runtime specification.
///
/// # Errors
/// [`SeccompError`].
pub fn load(folder: &Path, name: &Name) -> Result<LinuxSeccomp, SeccompError> {
    let path = folder.join(format!("{name}.json"));
    let read = |source| SeccompError::Read {
        path: path.clone(),
        source,
    };
    let size = std::fs::metadata(&path).map_err(read)?.len();
    if size > MAX_PROFILE {
        return Err(SeccompError::Long { path, size });
    }
    let bytes = std::fs::read(&path).map_err(read)?;
    let parse = |source| SeccompError::Parse {
        path: path.clone(),
        source,
    };
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(parse)?;
    let calls = value["syscalls"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    // Whoever ignores a condition allows too much.
    let condition = ["includes", "excludes"]
        .into_iter()
        .find(|f| calls.iter().any(|c| !is_empty(&c[f])));
    if let Some(field) = condition.or((!value["archMap"].is_null()).then_some("archMap")) {
        return Err(SeccompError::Template { path, field });
    }
    serde_json::from_value(value).map_err(parse)
}

fn is_empty(value: &serde_json::Value) -> bool {
    value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn allow(names: &str, arguments: Vec<LinuxSeccompArg>) -> Result<LinuxSyscall, OciSpecError> {
    let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    let call = LinuxSyscallBuilder::default()
        .names(names)
        .action(LinuxSeccompAction::ScmpActAllow);
    if arguments.is_empty() {
        call.build()
    } else {
        call.args(arguments).build()
    }
}

/// A condition on the first argument.
fn argument(
    operator: LinuxSeccompOperator,
    value: u64,
    value_two: Option<u64>,
) -> Result<LinuxSeccompArg, OciSpecError> {
    let argument = LinuxSeccompArgBuilder::default()
        .index(0usize)
        .value(value)
        .op(operator);
    match value_two {
        Some(second) => argument.value_two(second).build(),
        None => argument.build(),
    }
}

/// The processor's own calls, and those of the older ones whose programs it runs as well.
fn architectures(native: &str) -> Vec<Arch> {
    match native {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => vec![Arch::ScmpArchNative],
    }
}

#[cfg(test)]
mod tests;
