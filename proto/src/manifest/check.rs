//! Rules that span fields, and those of values that a type alone can't promise. Applied to every
//! specification, whether it was a user's text or came over the wire.

use super::document::{self, Known};
use super::fault::Faults;
use super::reader::{Path, Sink};
use super::rule;
use crate::image::ImageName;
use crate::spec::{Container, ProbeCheck, SandboxSpec};
use std::collections::BTreeSet;
use std::fmt::Display;

/// # Errors
/// Every rule that `spec` breaks.
pub fn check(spec: &SandboxSpec) -> Result<(), Faults> {
    let mut faults = Faults::default();
    let sink = Sink::new(1, &mut faults);
    check_sandbox(spec, Known::default(), &Path::root().field("spec"), &sink);
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Notes `message` for each item whose key was there before.
fn unique<K: Ord + Clone + Display>(keys: impl Iterator<Item = (Path, K)>, what: &str, sink: &Sink<'_>) {
    let mut seen = BTreeSet::new();
    for (path, key) in keys {
        if !seen.insert(key.clone()) {
            sink.fault(&path, format!("`{key}` is the {what} of an earlier one as well"));
        }
    }
}

pub(super) fn check_sandbox(spec: &SandboxSpec, known: Known, at: &Path, sink: &Sink<'_>) {
    for (key, value) in &spec.node_selector {
        if let Err(why) = rule::check_label(key, value) {
            sink.fault(&at.field("node_selector"), why);
        }
    }
    let ports = at.field("ports");
    for (i, port) in spec
        .ports
        .iter()
        .enumerate()
        .filter(|(_, p)| p.container_port == 0)
    {
        sink.fault(
            &ports.index(i),
            format!("{}: must be between 1 and 65535", port.container_port),
        );
    }
    let port_key = |(i, p): (usize, &crate::spec::Port)| {
        (ports.index(i), format!("{}/{}", p.container_port, p.protocol))
    };
    unique(spec.ports.iter().enumerate().map(port_key), "port", sink);

    let volumes = at.field("volumes");
    for (i, _) in spec.volumes.iter().enumerate().filter(|(_, v)| v.size.0 == 0) {
        sink.fault(
            &volumes.index(i).field("ephemeral_storage"),
            "must be greater than 0",
        );
    }
    let volume_key = |(i, v): (usize, &crate::spec::Volume)| (volumes.index(i).field("name"), v.name.clone());
    unique(spec.volumes.iter().enumerate().map(volume_key), "name", sink);

    check_probe(spec, known, &at.field("readiness_probe"), sink);

    let containers = at.field("containers");
    if spec.containers.is_empty() && known.containers {
        sink.fault(&containers, "at least one is required");
    }
    let name_key = |(i, c): (usize, &Container)| (containers.index(i).field("name"), c.name.clone());
    unique(spec.containers.iter().enumerate().map(name_key), "name", sink);
    for (i, container) in spec.containers.iter().enumerate() {
        check_container(spec, container, known, &containers.index(i), sink);
    }
}

fn check_probe(spec: &SandboxSpec, known: Known, at: &Path, sink: &Sink<'_>) {
    let Some(probe) = &spec.readiness_probe else {
        return;
    };
    if known.ports && !spec.ports.iter().any(|p| p.container_port == probe.port) {
        sink.fault(
            &at.field("port"),
            format!("{} is not among the declared ports", probe.port),
        );
    }
    if let ProbeCheck::Http { path } = &probe.check
        && !path.starts_with('/')
    {
        sink.fault(&at.field("path"), format!("`{path}` must start with /"));
    }
    for (field, value) in [
        ("period_seconds", probe.period_seconds),
        ("timeout_seconds", probe.timeout_seconds),
        ("success_threshold", probe.success_threshold),
        ("failure_threshold", probe.failure_threshold),
    ] {
        if value == 0 {
            sink.fault(&at.field(field), "must be at least 1");
        }
    }
}

fn check_container(spec: &SandboxSpec, container: &Container, known: Known, at: &Path, sink: &Sink<'_>) {
    let note = |path: Path, result: Result<(), String>| {
        if let Err(why) = result {
            sink.fault(&path, why);
        }
    };
    match ImageName::parse(&container.image) {
        Ok(name) if name.to_string() == container.image => {}
        Ok(name) => sink.fault(&at.field("image"), format!("must be sent in full, as {name}")),
        Err(why) => sink.fault(&at.field("image"), why),
    }
    for (i, entry) in container.env.iter().enumerate() {
        note(at.field("env").index(i), rule::check_env(entry));
    }
    for (field, caps) in [("cap_add", &container.cap_add), ("cap_drop", &container.cap_drop)] {
        for (i, cap) in caps.iter().enumerate() {
            note(at.field(field).index(i), rule::parse_capability(cap).map(|_| ()));
        }
    }
    if let Some(dir) = &container.work_dir
        && !dir.starts_with('/')
    {
        sink.fault(&at.field("work_dir"), format!("`{dir}` must be absolute"));
    }
    for (field, value) in [
        ("cpu", container.resource.cpu.0),
        ("memory", container.resource.memory.0),
        ("ephemeral_storage", container.resource.ephemeral_storage.0),
    ] {
        if value == 0 {
            sink.fault(&at.field("resource").field(field), "must be greater than 0");
        }
    }
    let mut paths = Vec::new();
    for (i, mount) in container.volume_mounts.iter().enumerate() {
        let at = at.field("volume_mounts").index(i);
        if known.volumes && !spec.volumes.iter().any(|v| v.name == mount.name) {
            let declared = spec
                .volumes
                .iter()
                .map(|v| v.name.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            let declared = if declared.is_empty() {
                "none is declared".to_owned()
            } else {
                format!("declared: {declared}")
            };
            sink.fault(
                &at.field("name"),
                format!("there is no volume `{}` ({declared})", mount.name),
            );
        }
        paths.push((at.field("mount_path"), mount.mount_path.clone()));
    }
    for (i, mount) in container.tmpfs.iter().enumerate() {
        paths.push((
            at.field("tmpfs").index(i).field("mount_path"),
            mount.mount_path.clone(),
        ));
    }
    for (path, mount_path) in &paths {
        note(path.clone(), rule::check_mount_path(mount_path));
    }
    unique(paths.into_iter(), document::MOUNT_PATH, sink);
}
