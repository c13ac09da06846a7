//! Filters on the kernel's own terms: their instructions, run here on system calls that were never made.

use super::*;
use crate::runtime::seccomp::default_profile;
use oci_spec::runtime::Capability;
use proto::policy::DEFAULT_CAPABILITIES;
use std::str::FromStr;

/// Of linux/audit.h.
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
/// Answers, of linux/seccomp.h.
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0000 | libc::EPERM as u32;
const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;
const TRAP: u32 = 0x0003_0000;

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("within bounds")
}

/// What the kernel answers: the few kinds of instructions that there are in filters.
fn answer(filter: &[u8], architecture: u32, call: u32, arguments: &[u64]) -> u32 {
    let mut data = [0; 64];
    data[..4].copy_from_slice(&call.to_ne_bytes());
    data[4..8].copy_from_slice(&architecture.to_ne_bytes());
    for (argument, place) in arguments.iter().zip(data[16..].chunks_mut(8)) {
        place.copy_from_slice(&argument.to_ne_bytes());
    }
    let (mut at, mut value) = (0, 0);
    loop {
        let instruction: [u8; 8] = field(filter, at * 8);
        let [_, _, if_true, if_false, ..] = instruction;
        let k = u32::from_ne_bytes(field(&instruction, 4));
        let holds = match u16::from_ne_bytes(field(&instruction, 0)) {
            0x20 => {
                value = u32::from_ne_bytes(field(&data, k as usize));
                at += 1;
                continue;
            }
            0x54 => {
                value &= k;
                at += 1;
                continue;
            }
            0x05 => {
                at += 1 + k as usize;
                continue;
            }
            0x06 => return k,
            0x15 => value == k,
            0x25 => value > k,
            0x35 => value >= k,
            0x45 => value & k != 0,
            code => panic!("an instruction {code:#x} at {at}"),
        };
        at += 1 + usize::from(if holds { if_true } else { if_false });
    }
}

fn held(more: &[Capability]) -> oci_spec::runtime::Capabilities {
    let default = DEFAULT_CAPABILITIES.iter().map(|name| {
        let known = Capability::from_str(name);
        known.expect("a capability")
    });
    default.chain(more.iter().copied()).collect()
}

/// One that acts on the numbers of this kind of processor.
#[cfg(target_arch = "x86_64")]
#[test]
fn default_filter_answers_calls_as_docker_s_does() {
    const NEWUSER: u64 = 0x1000_0000;
    const NEWNS: u64 = 0x2_0000;
    const SIGCHLD: u64 = 17;
    const FORK_OF_GLIBC: u64 = 0x0120_0011;
    let profile = default_profile(&held(&[])).expect("a profile");
    let filter = make(&profile).expect("a filter");
    let check = |architecture, call, arguments: &[u64], want| {
        let said = answer(&filter, architecture, call, arguments);
        assert_eq!(said, want, "{architecture:#x} {call} {arguments:x?}: {said:#x}");
    };
    let native = |call, arguments: &[u64], want| check(X86_64, call, arguments, want);
    // read, execve, mount, unshare, setns, bpf, keyctl
    native(0, &[], ALLOW);
    native(59, &[], ALLOW);
    for refused in [165, 272, 308, 321, 250] {
        native(refused, &[], EPERM);
    }
    // clone: with the mask and what it is compared with in each other's place, any would be allowed.
    native(56, &[SIGCHLD], ALLOW);
    native(56, &[FORK_OF_GLIBC], ALLOW);
    native(56, &[SIGCHLD | NEWUSER], EPERM);
    native(56, &[SIGCHLD | NEWNS], EPERM);
    native(435, &[], ENOSYS);
    // socket: inet, netlink, alg, vsock
    for (family, want) in [(2, ALLOW), (16, ALLOW), (38, EPERM), (40, EPERM)] {
        native(41, &[family], want);
    }
    // personality: none, one of the allowed, without random addresses
    for (domain, want) in [(0, ALLOW), (0xffff_ffff, ALLOW), (0x4_0000, EPERM)] {
        native(135, &[domain], want);
    }
    // Programs of 32 bits: read, unshare, clone
    check(I386, 3, &[], ALLOW);
    check(I386, 310, &[], EPERM);
    check(I386, 120, &[SIGCHLD | NEWUSER], EPERM);
    // No number of any call.
    native(4_000, &[], EPERM);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn capability_opens_the_calls_that_need_it() {
    let with =
        |more: &[Capability]| make(&default_profile(&held(more)).expect("a profile")).expect("a filter");
    let (without, with) = (with(&[]), with(&[Capability::SysAdmin]));
    for (call, arguments) in [
        (165, vec![]),
        (272, vec![]),
        (56, vec![0x1000_0000]),
        (435, vec![]),
    ] {
        assert_ne!(answer(&without, X86_64, call, &arguments), ALLOW, "{call}");
        assert_eq!(answer(&with, X86_64, call, &arguments), ALLOW, "{call}");
    }
}

fn profile(text: &str) -> LinuxSeccomp {
    serde_json::from_str(text).expect("a profile")
}

#[cfg(target_arch = "x86_64")]
#[test]
fn profile_of_the_nodes_own_says_what_it_says() {
    let own = profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
            {"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_TRAP"},
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
             "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 15, "op": "SCMP_CMP_EQ"}]}
        ]}"#,
    );
    let filter = make(&own).expect("a filter");
    for (call, arguments, want) in [
        (0, vec![], ALLOW),
        (83, vec![], TRAP),
        (62, vec![1, 9], ENOSYS),
        (62, vec![1, 15], ENOSYS),
        (62, vec![1, 1], ALLOW),
    ] {
        assert_eq!(
            answer(&filter, X86_64, call, &arguments),
            want,
            "{call} {arguments:?}"
        );
    }
}

#[test]
fn what_needs_somebody_who_answers_is_refused() {
    let notify = profile(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#);
    assert!(matches!(make(&notify), Err(FilterError::Notify(_))));
}

#[test]
fn filter_is_made_once_and_lies_beside_each_bundle() {
    let filters = Filters::default();
    let profile = default_profile(&held(&[])).expect("a profile");
    let first = filters.of(&profile).expect("made");
    assert!(Arc::ptr_eq(&first, &filters.of(&profile).expect("kept")));
    let folder = tempfile::tempdir().expect("a folder");
    let mut linux = oci_spec::runtime::Linux::default();
    linux.set_seccomp(Some(profile));
    let mut spec = Spec::default();
    spec.set_linux(Some(linux));
    filters.write(&spec, folder.path()).expect("written");
    assert_eq!(compiled(folder.path()).expect("read"), first.as_ref());
    for number in 0..=KEPT {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": {}}}"#,
            number + 1
        );
        filters.of(&self::profile(&text)).expect("made");
    }
    assert_eq!(filters.kept.lock().expect("not poisoned").len(), KEPT);
}
