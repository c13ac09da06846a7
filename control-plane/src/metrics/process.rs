//! What the kernel knows of this process, under the names that Prometheus' own libraries give it.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::fs;

/// In which the kernel tells times of processes; 100 per second on all architectures that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Read anew each time.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    /// What can't be read is left out.
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let stat = read("/proc/self/stat");
        if let Some(seconds) = cpu_seconds(&stat) {
            let counter = ConstCounter::new(seconds);
            let name = "process_cpu_seconds";
            let help = "User and system time that this process has taken";
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        let status = read("/proc/self/status");
        let open_fds = fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
        let gauges = [
            (
                "process_resident_memory_bytes",
                "Memory of this process in RAM",
                kib(&status, "VmRSS:").map(|kib| kib * 1024.0),
            ),
            (
                "process_virtual_memory_bytes",
                "Address space of this process",
                kib(&status, "VmSize:").map(|kib| kib * 1024.0),
            ),
            (
                "process_threads",
                "Threads of this process",
                kib(&status, "Threads:"),
            ),
            (
                "process_open_fds",
                "Open file descriptors",
                open_fds.map(|count| count as f64),
            ),
            (
                "process_max_fds",
                "File descriptors that may be open",
                max_fds(&read("/proc/self/limits")),
            ),
            (
                "process_start_time_seconds",
                "When this process was started, since the epoch",
                start_time(&stat, &read("/proc/stat")),
            ),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

/// A field of `/proc/<pid>/stat` by its number in proc(5), of those behind the name.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields
        .split_whitespace()
        .nth(number.checked_sub(3)?)?
        .parse()
        .ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_time(stat: &str, system: &str) -> Option<f64> {
    let boot = system.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + stat_field(stat, 22)? / TICKS_PER_SECOND)
}

/// A number of `/proc/<pid>/status`.
fn kib(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

fn max_fds(limits: &str) -> Option<f64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_as_the_kernel_writes_them() {
        let stat =
            "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 4 0 1000 8000 200 18446744073709551615";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(
            start_time(stat, "cpu 1\nbtime 1700000000\n"),
            Some(1_700_000_010.0)
        );
        let status = "Name:\tx\nVmSize:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t4\n";
        assert_eq!(kib(status, "VmRSS:"), Some(1024.0));
        assert_eq!(kib(status, "Threads:"), Some(4.0));
        let limits = "Limit    Soft Limit  Hard Limit  Units\nMax open files    1024    524288    files\n";
        assert_eq!(max_fds(limits), Some(1024.0));
        assert_eq!(
            (cpu_seconds(""), kib("", "VmRSS:"), max_fds("")),
            (None, None, None)
        );
    }
}
