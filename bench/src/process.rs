//! What a process takes of the machine, as the kernel tells.

use nix::unistd::{SysconfVar, sysconf};
use std::fs;
use std::io;
use std::time::Duration;

pub(crate) const KIB_PER_MIB: f64 = 1_024.0;

/// Used by a process since it was started, in itself and in the kernel.
pub(crate) fn cpu(pid: u32) -> io::Result<Duration> {
    const BEHIND_NAME: usize = 14 - 3;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 = fields
        .split_ascii_whitespace()
        .skip(BEHIND_NAME)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// One that was started with this argument.
pub(crate) fn with_argument(argument: &str) -> io::Result<Option<u32>> {
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have gone meanwhile.
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if arguments
            .split(|byte| *byte == 0)
            .any(|one| one == argument.as_bytes())
        {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// The sum of some fields of a file of a process that gives KiB.
pub(crate) fn sum_kib(pid: u32, file: &str, keys: &[&str]) -> io::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let values = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let key = words.next().filter(|key| keys.contains(key))?;
        let value: f64 = words.next()?.parse().ok()?;
        (!key.is_empty()).then_some(value)
    });
    Ok(values.sum())
}
