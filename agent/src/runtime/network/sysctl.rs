//! The kernel's network settings, of the calling thread's network namespace.

use super::error::NetworkError;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Turns on forwarding between links; it is left on, others may rely on it meanwhile.
pub(super) fn enable_forwarding() -> Result<(), NetworkError> {
    let path = PathBuf::from("/proc/sys/net/ipv4/ip_forward");
    // Writing resets other settings of all links, even where nothing changes.
    match fs::read_to_string(&path) {
        Ok(setting) if setting.trim() == "1" => Ok(()),
        Ok(_) | Err(_) => write(path, "1"),
    }
}

/// Of links that are made from now on.
pub(super) const DEFAULT: &str = "default";

/// No IPv6 on the link: no address of its own, no router advertisement is heard. A kernel without IPv6 has nothing
/// to turn off.
pub(super) fn disable_ipv6(link: &str) -> Result<(), NetworkError> {
    let path = PathBuf::from(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"));
    // Writing takes the one lock of all links, and turns and turns until it has it.
    match fs::read_to_string(&path) {
        Ok(setting) if setting.trim() == "1" => Ok(()),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) | Err(_) => write(path, "1"),
    }
}

/// Lets the node's own connections to 127.0.0.1 out by the link and their answers in, where they lead to a
/// published port. What a sandbox itself sends to 127.0.0.0/8 the firewall drops.
pub(super) fn route_loopback(link: &str) -> Result<(), NetworkError> {
    write(
        format!("/proc/sys/net/ipv4/conf/{link}/route_localnet").into(),
        "1",
    )
}

fn write(path: PathBuf, value: &'static str) -> Result<(), NetworkError> {
    fs::write(&path, value).map_err(|source| NetworkError::Sysctl { path, value, source })
}
