//! The forms of single values. Each function says what is wrong in words that fit behind a path.

use crate::id::Name;
use crate::spec::{Cidr, EgressRule, Labels, Profile, Protocol, SecurityOpt, TmpfsOptions};
use crate::units::{Bytes, GIB, KIB, MIB};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

type Rule<T> = Result<T, String>;

/// Every Linux capability (`capabilities(7)`, Linux 6.x), without the `CAP_` prefix.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// `cap_net_admin`, `CAP_NET_ADMIN` and `NET_ADMIN` are one; `ALL` stands for every one.
pub(super) fn parse_capability(text: &str) -> Rule<String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if name == "ALL" || CAPABILITIES.contains(&name) {
        return Ok(name.to_owned());
    }
    let hint = super::reader::closest(name, CAPABILITIES.iter());
    let hint = hint.map(|k| format!(", did you mean {k}?")).unwrap_or_default();
    Err(format!("`{text}` is not a capability{hint}"))
}

/// `key` or `prefix/key` and a value, in Kubernetes' syntax.
///
/// # Errors
/// What breaks the syntax.
pub fn check_label(key: &str, value: &str) -> Rule<()> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    if let Some(prefix) = prefix {
        let part = |p: &str| {
            !p.is_empty()
                && p.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !p.starts_with('-')
                && !p.ends_with('-')
        };
        if prefix.len() > 253 || !prefix.split('.').all(part) {
            return Err(format!("the prefix of the key `{key}` is not a DNS name"));
        }
    }
    if name.is_empty() || !label_word(name) {
        return Err(format!("`{key}` is not a label key: {LABEL_RULE}"));
    }
    if !value.is_empty() && !label_word(value) {
        return Err(format!("`{value}` is not a label value: {LABEL_RULE}"));
    }
    Ok(())
}

const LABEL_RULE: &str =
    "at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit";

fn label_word(word: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    word.len() <= 63
        && edge(word.bytes().next())
        && edge(word.bytes().last())
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// `a=b,c=d`, as `-l` takes it.
///
/// # Errors
/// Which part is no `key=value`.
pub fn parse_selector(text: &str) -> Rule<Labels> {
    let mut labels = Labels::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` is not key=value"))?;
        let (key, value) = (key.trim(), value.trim_start_matches('=').trim());
        check_label(key, value)?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

/// An address block; a single address is a block of its own.
///
/// # Errors
/// What is wrong, with the block that was probably meant where host bits are set.
pub fn parse_cidr(text: &str) -> Rule<Cidr> {
    let malformed = || format!("`{text}` is not an address block such as 192.0.2.0/24");
    let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
    let address: IpAddr = address.parse().map_err(|_| malformed())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => bits,
        Some(p) => p
            .parse::<u8>()
            .ok()
            .filter(|p| *p <= bits)
            .ok_or_else(malformed)?,
    };
    let network = match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(a) & mask))
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask))
        }
    };
    if network != address {
        return Err(format!(
            "`{text}` has bits behind its prefix, did you mean {network}/{prefix}?"
        ));
    }
    Ok(Cidr { address, prefix })
}

/// `CIDR`, `CIDR:port/proto` or `[CIDR]:port/proto`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_egress_rule(text: &str) -> Rule<EgressRule> {
    let (block, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (block, rest) = rest
                .split_once(']')
                .ok_or_else(|| format!("`{text}` lacks a `]`"))?;
            (block, rest.strip_prefix(':'))
        }
        // Of IPv6 without brackets every ':' belongs to the address.
        None if text.matches(':').count() > 1 => (text, None),
        None => text.split_once(':').map_or((text, None), |(b, p)| (b, Some(p))),
    };
    let cidr = parse_cidr(block)?;
    let Some(port) = port else {
        return Ok(EgressRule { cidr, port: None });
    };
    let (number, protocol) = port
        .split_once('/')
        .ok_or_else(|| format!("`{text}`: write the port as 443/tcp"))?;
    let number = number.parse::<u16>().ok().filter(|n| *n > 0);
    let number = number.ok_or_else(|| format!("`{text}`: the port must be between 1 and 65535"))?;
    Ok(EgressRule {
        cidr,
        port: Some((number, parse_protocol(protocol)?)),
    })
}

pub(super) fn parse_protocol(text: &str) -> Rule<Protocol> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(format!("`{text}` is not a protocol: tcp or udp")),
    }
}

/// `no-new-privileges:true`, `seccomp=...`, `apparmor=...`.
///
/// # Errors
/// What is wrong, and what there is.
pub fn parse_security_opt(text: &str) -> Rule<SecurityOpt> {
    match text.split_once([':', '=']) {
        Some(("no-new-privileges", "true")) => Ok(SecurityOpt::NoNewPrivileges(true)),
        Some(("no-new-privileges", "false")) => Ok(SecurityOpt::NoNewPrivileges(false)),
        Some(("seccomp", profile)) => parse_profile(text, profile).map(SecurityOpt::Seccomp),
        Some(("apparmor", profile)) => parse_profile(text, profile).map(SecurityOpt::Apparmor),
        Some(_) | None => Err(format!(
            "`{text}` is not known: no-new-privileges:true|false, \
             seccomp=runtime/default|unconfined|localhost/<name>, \
             apparmor=runtime/default|unconfined|localhost/<profile>"
        )),
    }
}

fn parse_profile(text: &str, profile: &str) -> Rule<Profile> {
    match profile {
        "runtime/default" => return Ok(Profile::RuntimeDefault),
        "unconfined" => return Ok(Profile::Unconfined),
        _ => {}
    }
    let name = profile.strip_prefix("localhost/").ok_or_else(|| {
        format!("`{text}`: the profile must be runtime/default, unconfined or localhost/<name>")
    })?;
    Name::new(name)
        .map(Profile::Localhost)
        .map_err(|e| format!("`{text}`: the name of a profile {e}; it is a name, never a path"))
}

/// # Errors
/// The option that is at fault and what is wrong with it.
pub fn parse_tmpfs_options(given: &[String]) -> Result<TmpfsOptions, (String, String)> {
    let mut options = TmpfsOptions {
        given: given.to_vec(),
        size: None,
    };
    for option in given {
        let fail = |why: &str| Err((option.clone(), why.to_owned()));
        match option.split_once('=') {
            None => match option.as_str() {
                "ro" | "rw" | "nosuid" | "suid" | "nodev" | "dev" | "noexec" | "exec" => {}
                _ => {
                    return fail(
                        "is not an option of a tmpfs: ro rw nosuid suid nodev dev noexec exec mode= size=",
                    );
                }
            },
            Some(("mode", mode)) => match u32::from_str_radix(mode, 8) {
                Ok(mode) if mode <= 0o7777 => {}
                Ok(_) | Err(_) => return fail("is not an octal mode such as mode=1777"),
            },
            Some(("size", size)) => match tmpfs_size(size) {
                Some(size) => options.size = Some(size),
                None => return fail("is not a size above 0 such as size=64m or size=64Mi"),
            },
            Some(_) => return fail("is not an option of a tmpfs: only mode= and size= take a value"),
        }
    }
    Ok(options)
}

/// As mount(8) has it (`k`, `m`, `g` are binary there), or in binary units.
fn tmpfs_size(text: &str) -> Option<Bytes> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let scale = match &text[end..] {
        "" => 1,
        "k" | "K" | "Ki" => KIB,
        "m" | "M" | "Mi" => MIB,
        "g" | "G" | "Gi" => GIB,
        _ => return None,
    };
    let size = text[..end].parse::<u64>().ok()?.checked_mul(scale)?;
    (size > 0).then_some(Bytes(size))
}

/// A node is reached by one address of its own.
///
/// # Errors
/// Why this can't be one.
pub fn check_node_address(ip: IpAddr) -> Rule<()> {
    let link_local = match ip {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    let kind = if ip.is_unspecified() {
        "unspecified"
    } else if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        "multicast"
    } else if link_local {
        "link-local"
    } else {
        return Ok(());
    };
    Err(format!("`{ip}` is {kind}: a node needs an address of its own"))
}

/// Where a volume or tmpfs may be mounted.
pub(super) fn check_mount_path(path: &str) -> Rule<()> {
    check_clean(path)?;
    let below = |dir: &str| path == dir || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    if path == "/" {
        return Err("must not be the root of the filesystem".to_owned());
    }
    if below("/tmp") {
        return Err(format!(
            "`{path}`: /tmp is the sandbox's own scratch space and can't be mounted over"
        ));
    }
    match ["/proc", "/sys", "/dev"].into_iter().find(|dir| below(dir)) {
        Some(dir) => Err(format!(
            "`{path}`: {dir} belongs to the kernel's interfaces and can't be mounted over"
        )),
        None => Ok(()),
    }
}

/// Absolute, without `.`, `..`, `//` or a trailing `/`.
fn check_clean(path: &str) -> Rule<()> {
    if !path.starts_with('/') {
        return Err(format!("`{path}` must be absolute"));
    }
    if path.contains('\0') {
        return Err("must not contain a NUL character".to_owned());
    }
    let clean = path == "/" || path[1..].split('/').all(|part| !matches!(part, "" | "." | ".."));
    if clean {
        Ok(())
    } else {
        Err(format!(
            "`{path}` must not contain `.`, `..`, `//` or a trailing `/`"
        ))
    }
}

/// `KEY=VALUE`.
pub(super) fn check_env(entry: &str) -> Rule<()> {
    match entry.split_once('=') {
        Some(("", _)) => Err(format!("`{entry}` has no name before the `=`")),
        Some(_) if entry.contains('\0') => Err("must not contain a NUL character".to_owned()),
        Some(_) => Ok(()),
        None => Err(format!("`{entry}` must be KEY=VALUE")),
    }
}
