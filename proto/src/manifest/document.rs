//! The kinds of documents, field by field.

use super::check::check_sandbox;
use super::fault::Faults;
use super::reader::{Fields, Path, Reader, Sink};
use super::rule;
use crate::image::ImageName;
use crate::spec::{
    Container, ExternalSpec, Labels, Manifest, NodeSpec, OnNodeLoss, Port, Probe, ProbeCheck, Protocol,
    Resource, Runtime, SandboxSpec, TmpfsMount, TmpfsOptions, Volume, VolumeMount,
};
use crate::units::{Bytes, MilliCpu, QuantityError};
use serde_yaml_ng::Value;

const API_VERSION: &str = "sandboxd.o/v1";
const KINDS: [&str; 3] = ["Sandbox", "Node", "External"];
/// `ephemeral_storage` of a container that names none.
const DEFAULT_EPHEMERAL: Bytes = Bytes::mib(128);
/// How a mount path is called in faults.
pub(super) const MOUNT_PATH: &str = "mount path";

/// Which lists were read without a fault: rules that look things up in the others would note what is
/// only a consequence.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub ports: bool,
    pub volumes: bool,
    pub containers: bool,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            ports: true,
            volumes: true,
            containers: true,
        }
    }
}

/// One document; `None` where it has faults.
pub(super) fn read(value: &Value, document: usize, faults: &mut Faults) -> Option<Manifest> {
    let sink = Sink::new(document, faults);
    let before = sink.count();
    let manifest = manifest(&Reader::new(Path::root(), value, &sink), &sink);
    manifest.filter(|_| sink.count() == before)
}

fn manifest(reader: &Reader<'_, '_>, sink: &Sink<'_>) -> Option<Manifest> {
    let fields = reader.fields()?;
    let version = fields.required("apiVersion").and_then(|r| {
        let version = r.text()?;
        if version != API_VERSION {
            r.fault(format!("`{version}` is not known: write {API_VERSION}"));
        }
        Some(())
    });
    let kind = fields.required("kind").and_then(|r| {
        let kind = r.text()?;
        if !KINDS.contains(&kind.as_str()) {
            let hint = super::reader::closest(&kind, KINDS.iter());
            let hint = hint.map(|k| format!(", did you mean {k}?")).unwrap_or_default();
            r.fault(format!("`{kind}` is not a kind ({}){hint}", KINDS.join(", ")));
            return None;
        }
        Some(kind)
    });
    let id = fields.required("id");
    let labels = fields.or("metadata", Labels::new(), metadata);
    let spec = match kind.as_deref() {
        // A node is complete without wishes.
        Some("Node") => fields.optional("spec"),
        Some(_) | None => fields.required("spec"),
    };
    let manifest = match kind?.as_str() {
        "Sandbox" => {
            let id = id.and_then(|r| r.parsed(str::parse));
            let spec = spec.and_then(|r| sandbox(&r, sink));
            id.zip(labels)
                .zip(spec)
                .map(|((id, labels), spec)| Manifest::Sandbox { id, labels, spec })
        }
        "Node" => {
            let id = id.and_then(|r| r.parsed(str::parse));
            let spec = match spec {
                Some(r) => node(&r),
                None => Some(NodeSpec::default()),
            };
            id.zip(labels)
                .zip(spec)
                .map(|((id, labels), spec)| Manifest::Node { id, labels, spec })
        }
        _ => {
            let id = id.and_then(|r| r.parsed(str::parse));
            let spec = spec.and_then(|r| external(&r));
            id.zip(labels)
                .zip(spec)
                .map(|((id, labels), spec)| Manifest::External { id, labels, spec })
        }
    };
    fields.finish();
    version.and(manifest)
}

fn metadata(reader: &Reader<'_, '_>) -> Option<Labels> {
    let fields = reader.fields()?;
    let labels = fields.or("labels", Labels::new(), labels);
    fields.finish();
    labels
}

fn labels(reader: &Reader<'_, '_>) -> Option<Labels> {
    let mut labels = Labels::new();
    for (key, value) in reader.entries()? {
        let text = value.text()?;
        if let Err(why) = rule::check_label(&key, &text) {
            value.fault(why);
        }
        labels.insert(key, text);
    }
    Some(labels)
}

fn strings(reader: &Reader<'_, '_>) -> Option<Vec<String>> {
    reader.list(Reader::text)
}

fn sandbox(reader: &Reader<'_, '_>, sink: &Sink<'_>) -> Option<SandboxSpec> {
    let fields = reader.fields()?;
    let egress = fields.or("egress", false, Reader::boolean);
    let egress_allow = fields.or("egress_allow", vec![], |r| {
        r.list(|r| r.parsed(rule::parse_egress_rule))
    });
    let ttl = fields.or("ttl_seconds", 0, |r| r.integer(0, i64::MAX));
    let node_selector = fields.or("node_selector", Labels::new(), labels);
    let runtime = fields.or("runtime", None, |r| r.parsed(parse_runtime).map(Some));
    let priority = fields.or("priority", 0, |r| r.integer(i32::MIN.into(), i32::MAX.into()));
    let on_node_loss = fields.or("on_node_loss", OnNodeLoss::Fail, |r| r.parsed(parse_on_node_loss));
    let ports = fields.or("ports", vec![], |r| r.list(port));
    let volumes = fields.or("volumes", vec![], |r| r.list(volume));
    let readiness_probe = fields.or("readiness_probe", None, |r| probe(r).map(Some));
    let containers = fields.required("containers").and_then(|r| r.list(container));
    fields.finish();

    let known = Known {
        ports: ports.is_some(),
        volumes: volumes.is_some(),
        containers: containers.is_some(),
    };
    // What failed is replaced by nothing, so that the rules of the rest are still told.
    let complete = egress.is_some()
        && egress_allow.is_some()
        && ttl.is_some()
        && node_selector.is_some()
        && runtime.is_some()
        && priority.is_some()
        && on_node_loss.is_some()
        && readiness_probe.is_some();
    let spec = SandboxSpec {
        egress: egress.unwrap_or_default(),
        egress_allow: egress_allow.unwrap_or_default(),
        ttl_seconds: ttl.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
        node_selector: node_selector.unwrap_or_default(),
        runtime: runtime.flatten(),
        priority: priority.and_then(|n| i32::try_from(n).ok()).unwrap_or_default(),
        on_node_loss: on_node_loss.unwrap_or_default(),
        ports: ports.unwrap_or_default(),
        volumes: volumes.unwrap_or_default(),
        readiness_probe: readiness_probe.flatten(),
        containers: containers.unwrap_or_default(),
    };
    check_sandbox(&spec, known, &reader.path, sink);
    (complete && known.ports && known.volumes && known.containers).then_some(spec)
}

fn parse_runtime(text: &str) -> Result<Runtime, String> {
    Runtime::ALL
        .into_iter()
        .find(|r| r.as_str() == text)
        .ok_or_else(|| format!("`{text}` is not a runtime: native, runc, crun or runsc"))
}

fn parse_on_node_loss(text: &str) -> Result<OnNodeLoss, String> {
    match text {
        "fail" => Ok(OnNodeLoss::Fail),
        "reschedule" => Ok(OnNodeLoss::Reschedule),
        _ => Err(format!("`{text}` is not known: fail or reschedule")),
    }
}

fn port_number(reader: &Reader<'_, '_>) -> Option<u16> {
    reader
        .integer(1, u16::MAX.into())
        .and_then(|n| u16::try_from(n).ok())
}

fn port(reader: &Reader<'_, '_>) -> Option<Port> {
    let fields = reader.fields()?;
    let container_port = fields.required("container_port").and_then(|r| port_number(&r));
    let protocol = fields.or("protocol", Protocol::Tcp, |r| r.parsed(rule::parse_protocol));
    // The cluster chooses; what a client sends is accepted and ignored.
    let _ = fields.optional("host_port");
    fields.finish();
    Some(Port {
        container_port: container_port?,
        protocol: protocol?,
    })
}

fn size(reader: &Reader<'_, '_>) -> Option<Bytes> {
    let size = quantity(reader, Bytes::parse)?;
    if size.0 == 0 {
        reader.fault(QuantityError::Zero.to_string());
        return None;
    }
    Some(size)
}

fn quantity<T>(reader: &Reader<'_, '_>, parse: impl FnOnce(&str) -> Result<T, QuantityError>) -> Option<T> {
    parse(&reader.quantity()?)
        .map_err(|why| reader.fault(why.to_string()))
        .ok()
}

fn volume(reader: &Reader<'_, '_>) -> Option<Volume> {
    let fields = reader.fields()?;
    let name = fields.required("name").and_then(|r| r.parsed(str::parse));
    let size = fields.required("ephemeral_storage").and_then(|r| size(&r));
    fields.finish();
    Some(Volume {
        name: name?,
        size: size?,
    })
}

fn probe(reader: &Reader<'_, '_>) -> Option<Probe> {
    let fields = reader.fields()?;
    let protocol = fields
        .required("protocol")
        .and_then(|r| r.text().map(|text| (r, text)));
    let http = match &protocol {
        Some((_, text)) if text == "http" => Some(true),
        Some((_, text)) if text == "tcp" => Some(false),
        Some((r, text)) => {
            r.fault(format!("`{text}` is not a probe's protocol: tcp or http"));
            None
        }
        None => None,
    };
    let path = if http == Some(true) {
        fields.required("path")
    } else {
        fields.optional("path")
    };
    let path = path.map(|r| r.text());
    let port = fields.required("port").and_then(|r| port_number(&r));
    let seconds = |name, min| {
        let n = fields
            .required(name)
            .and_then(|r| r.integer(min, u32::MAX.into()));
        n.and_then(|n| u32::try_from(n).ok())
    };
    let initial_delay_seconds = seconds("initial_delay_seconds", 0);
    let period_seconds = seconds("period_seconds", 1);
    let timeout_seconds = seconds("timeout_seconds", 1);
    let success_threshold = seconds("success_threshold", 1);
    let failure_threshold = seconds("failure_threshold", 1);
    fields.finish();
    let check = if http? {
        ProbeCheck::Http { path: path?? }
    } else {
        ProbeCheck::Tcp
    };
    Some(Probe {
        check,
        port: port?,
        initial_delay_seconds: initial_delay_seconds?,
        period_seconds: period_seconds?,
        timeout_seconds: timeout_seconds?,
        success_threshold: success_threshold?,
        failure_threshold: failure_threshold?,
    })
}

fn container(reader: &Reader<'_, '_>) -> Option<Container> {
    let fields = reader.fields()?;
    let name = fields.required("name").and_then(|r| r.parsed(str::parse));
    let image = fields.required("image").and_then(|r| r.parsed(ImageName::parse));
    let args = fields.or("args", vec![], strings);
    let env = fields.or("env", vec![], strings);
    let work_dir = fields.or("work_dir", None, |r| r.text().map(Some));
    let volume_mounts = fields.or("volume_mounts", vec![], |r| r.list(volume_mount));
    let capabilities = |fields: &Fields<'_, '_>, name| {
        fields.or(name, vec![], |r| r.list(|r| r.parsed(rule::parse_capability)))
    };
    let cap_add = capabilities(&fields, "cap_add");
    let cap_drop = capabilities(&fields, "cap_drop");
    let security_opt = fields.or("security_opt", vec![], |r| {
        r.list(|r| r.parsed(rule::parse_security_opt))
    });
    let read_only = fields.or("read_only", false, Reader::boolean);
    let tmpfs = fields.or("tmpfs", vec![], |r| r.list(tmpfs));
    let resource = fields.required("resource").and_then(|r| resource(&r));
    fields.finish();
    Some(Container {
        name: name?,
        image: image?.to_string(),
        args: args?,
        env: env?,
        work_dir: work_dir?,
        volume_mounts: volume_mounts?,
        cap_add: cap_add?,
        cap_drop: cap_drop?,
        security_opt: security_opt?,
        read_only: read_only?,
        tmpfs: tmpfs?,
        resource: resource?,
    })
}

fn volume_mount(reader: &Reader<'_, '_>) -> Option<VolumeMount> {
    let fields = reader.fields()?;
    let name = fields.required("name").and_then(|r| r.parsed(str::parse));
    let mount_path = fields.required("mount_path").and_then(|r| r.text());
    let read_only = fields.or("read_only", false, Reader::boolean);
    fields.finish();
    Some(VolumeMount {
        name: name?,
        mount_path: mount_path?,
        read_only: read_only?,
    })
}

fn tmpfs(reader: &Reader<'_, '_>) -> Option<TmpfsMount> {
    let fields = reader.fields()?;
    let mount_path = fields.required("mount_path").and_then(|r| r.text());
    let options = fields.or("options", TmpfsOptions::default(), |r| {
        let given = strings(r)?;
        rule::parse_tmpfs_options(&given)
            .map_err(|(option, why)| r.fault(format!("`{option}` {why}")))
            .ok()
    });
    fields.finish();
    Some(TmpfsMount {
        mount_path: mount_path?,
        options: options?,
    })
}

fn resource(reader: &Reader<'_, '_>) -> Option<Resource> {
    let fields = reader.fields()?;
    let cpu = fields.required("cpu").and_then(|r| {
        let cpu = quantity(&r, MilliCpu::parse)?;
        if cpu.0 == 0 {
            r.fault(QuantityError::Zero.to_string());
            return None;
        }
        Some(cpu)
    });
    let memory = fields.required("memory").and_then(|r| size(&r));
    let ephemeral_storage = fields.or("ephemeral_storage", DEFAULT_EPHEMERAL, size);
    fields.finish();
    Some(Resource {
        cpu: cpu?,
        memory: memory?,
        ephemeral_storage: ephemeral_storage?,
    })
}

fn node(reader: &Reader<'_, '_>) -> Option<NodeSpec> {
    let fields = reader.fields()?;
    let ip = fields.or("ip", None, |r| r.parsed(parse_node_address).map(Some));
    let port = fields.or("port", None, |r| port_number(r).map(Some));
    let unschedulable = fields.or("unschedulable", false, Reader::boolean);
    fields.finish();
    Some(NodeSpec {
        ip: ip?,
        port: port?,
        unschedulable: unschedulable?,
    })
}

fn parse_node_address(text: &str) -> Result<std::net::IpAddr, String> {
    let ip = text
        .parse()
        .map_err(|_| format!("`{text}` is not an IP address"))?;
    rule::check_node_address(ip).map(|()| ip)
}

fn external(reader: &Reader<'_, '_>) -> Option<ExternalSpec> {
    let fields = reader.fields()?;
    let node_id = fields.required("node_id").and_then(|r| r.parsed(str::parse));
    let external = fields.required("external").and_then(|r| {
        let text = r.text()?;
        if text.is_empty() || text.len() > 253 || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            r.fault("must be a host name or address of 1 to 253 characters");
            return None;
        }
        Some(text)
    });
    fields.finish();
    Some(ExternalSpec {
        node_id: node_id?,
        external: external?,
    })
}
