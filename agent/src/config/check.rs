//! From texts to checked values, with all that is wrong told at once. Pure.

use super::{Config, IdBlock, Settings, Subnet, TlsSettings};
use crate::runtime::image::{CollectPolicy, Mirror, RegistryConfig, RegistryTransport};
use crate::runtime::user_namespace::IDS;
use identity::folder;
use identity::token::{JoinToken, TokenError};
use proto::id::NodeId;
use proto::image::ImageName;
use proto::manifest;
use proto::spec::{Cidr, Labels, Runtime};
use proto::units::{Bytes, MilliCpu, QuantityError};
use spans::Endpoint;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// Fewer than 16 addresses are a mistake, and more than 16 million as well.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=28;
/// Below are a machine's own users, those of systemd's services, and `nobody`.
const FIRST_USER_ID: u32 = 65_536;
/// Some programs, and images' own users, know no larger ones.
const LAST_USER_ID: u32 = i32::MAX.unsigned_abs();
/// Runtimes of the command line take some 100 ms a container, and a busy machine several times that.
const SHORTEST_START: Duration = Duration::from_secs(1);

/// One thing that is wrong with the settings, with its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{key}: `{value}` {why}")]
    Value {
        key: &'static str,
        value: String,
        why: String,
    },
    #[error("server: name at least one replica of the control plane (--server https://HOST:7070)")]
    NoServer,
}

/// Checks what is about images.
pub(super) fn images(given: &Settings) -> Result<(RegistryConfig, CollectPolicy), Vec<Problem>> {
    let mut problems = Problems(Vec::new());
    let images = (problems.registries(given), problems.images(given));
    if problems.0.is_empty() {
        Ok(images)
    } else {
        Err(problems.0)
    }
}

/// Checks settings that were filled up with defaults.
pub(super) fn check(given: Settings) -> Result<Config, Vec<Problem>> {
    let mut problems = Problems(Vec::new());
    let mut of_images = Problems(Vec::new());
    let registries = of_images.registries(&given);
    let images = of_images.images(&given);
    let node_id = given.node_id.unwrap_or_default();
    let node_id = problems.take("node_id", &node_id, NodeId::new(&*node_id));
    let insecure = given.insecure == Some(true);
    let servers = problems.all("server", given.server, |text| server(text, insecure));
    if servers.is_empty() && problems.0.is_empty() {
        problems.0.push(Problem::NoServer);
    }
    let join = given
        .join_token
        .and_then(|text| problems.take("join_token", "...", join_token(&text)));
    // What stands in the folder of the state by default needs no word of its own.
    let of_state = given.state_dir.as_ref().map(|dir| dir.join("tls"));
    let tls_dir = if insecure || given.tls_dir == of_state {
        given.tls_dir
    } else {
        problems.path("tls_dir", given.tls_dir)
    };
    let advertise_ip = given.advertise_ip.and_then(|ip| {
        let checked = manifest::check_node_address(ip).map(|()| ip);
        problems.take("advertise_ip", &ip.to_string(), checked)
    });
    let state_dir = problems.path("state_dir", given.state_dir);
    let cgroup_parent = problems.path("cgroup_parent", given.cgroup_parent);
    problems.0.append(&mut of_images.0);
    let labels = problems.all("label", given.label, label);
    let runtime = given.default_runtime.unwrap_or_default();
    let default_runtime = problems.take("default_runtime", &runtime, runtime_named(&runtime));
    let start = given.start_timeout.unwrap_or_default();
    let start_timeout = problems.take("start_timeout", &start, start_time(&start));
    let percent = given.max_alloc_percent.unwrap_or_default();
    let max_alloc_percent = problems.take("max_alloc_percent", &percent.to_string(), share(percent));
    let cpu = given
        .cpu
        .and_then(|text| problems.take("cpu", &text, positive(MilliCpu::parse(&text))));
    let memory = given
        .memory
        .and_then(|text| problems.take("memory", &text, positive(Bytes::parse(&text))));
    let cidr = given.sandbox_cidr.unwrap_or_default();
    let sandbox_cidr = problems.take("sandbox_cidr", &cidr, subnet(&cidr));
    let ids = given.user_ids.unwrap_or_default();
    let user_ids = problems.take("user_ids", &ids, id_block(&ids));
    let otlp_endpoint = given
        .otlp_endpoint
        .filter(|text| !text.is_empty())
        .and_then(|text| problems.take("otlp_endpoint", &text, text.parse::<Endpoint>()));
    let protect = problems.all("protect", given.protect, manifest::parse_cidr);
    match (
        node_id,
        state_dir,
        cgroup_parent,
        default_runtime,
        start_timeout,
        max_alloc_percent,
        sandbox_cidr,
        user_ids,
    ) {
        (
            Some(node_id),
            Some(state_dir),
            Some(cgroup_parent),
            Some(default_runtime),
            Some(start_timeout),
            Some(max_alloc_percent),
            Some(sandbox_cidr),
            Some(user_ids),
        ) if problems.0.is_empty() => Ok(Config {
            node_id,
            servers,
            tls: tls_dir.filter(|_| !insecure).map(|dir| TlsSettings { dir, join }),
            advertise_ip,
            state_dir,
            cgroup_parent,
            registries,
            images,
            labels: Labels::from_iter(labels),
            default_runtime,
            start_timeout,
            gvisor_platform: given.gvisor_platform.unwrap_or_default(),
            max_alloc_percent,
            cpu,
            memory,
            sandbox_cidr,
            user_namespaces: given.user_namespaces.unwrap_or_default(),
            user_ids,
            namespaces_ahead: given.namespaces_ahead.unwrap_or_default(),
            dns: given.dns.unwrap_or_default(),
            protect,
            otlp_endpoint,
        }),
        _ => Err(problems.0),
    }
}

struct Problems(Vec<Problem>);

impl Problems {
    /// The value, or else the problem is noted.
    fn take<T>(&mut self, key: &'static str, value: &str, read: Result<T, impl Display>) -> Option<T> {
        read.map_err(|why| {
            self.0.push(Problem::Value {
                key,
                value: value.to_owned(),
                why: why.to_string(),
            });
        })
        .ok()
    }

    fn all<T, E: Display>(
        &mut self,
        key: &'static str,
        texts: Option<Vec<String>>,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let texts = texts.unwrap_or_default();
        texts
            .iter()
            .filter_map(|text| self.take(key, text, read(text)))
            .collect()
    }

    fn registries(&mut self, given: &Settings) -> RegistryConfig {
        let transport = |text: &str| text.parse::<RegistryTransport>();
        let transports = self.all("registry", given.registry.clone(), transport);
        let transports = transports.into_iter().map(|t| (t.registry, t.transport));
        RegistryConfig {
            mirrors: self.all("mirror", given.mirror.clone(), |text| text.parse::<Mirror>()),
            docker_config: given.docker_config.clone(),
            transports: transports.collect(),
            ..RegistryConfig::default()
        }
    }

    fn images(&mut self, given: &Settings) -> CollectPolicy {
        let default = CollectPolicy::default();
        let name = |text: &str| ImageName::parse(text).map(|_| text.to_owned());
        let keep = self.all("pre_pull", given.pre_pull.clone(), name);
        let unused_for = given.image_unused_for.clone().unwrap_or_default();
        let unused_for = self.take(
            "image_unused_for",
            &unused_for,
            humantime::parse_duration(&unused_for),
        );
        let percent = given.image_disk_percent.unwrap_or_default();
        let percent = self.take("image_disk_percent", &percent.to_string(), share(percent));
        let full_percent = percent.unwrap_or(default.full_percent);
        CollectPolicy {
            unused_for,
            full_percent,
            // As far below as by default.
            freed_percent: full_percent.saturating_sub(default.full_percent - default.freed_percent),
            keep,
            ..default
        }
    }

    /// An absolute path without `..`, and not the root.
    fn path(&mut self, key: &'static str, path: Option<PathBuf>) -> Option<PathBuf> {
        let path = path.unwrap_or_default();
        let clean = |path: &Path| {
            path.is_absolute()
                && path.components().count() > 1
                && path.components().all(|c| c != Component::ParentDir)
        };
        let checked = if clean(&path) {
            Ok(path.clone())
        } else {
            Err("must be an absolute path without `..`, and not `/`")
        };
        self.take(key, &path.display().to_string(), checked)
    }
}

/// A token, or the file that holds it.
fn join_token(text: &str) -> Result<JoinToken, String> {
    let is_path = text.contains('/');
    let text = if is_path {
        folder::read_secret(Path::new(text)).map_err(|error| error.to_string())?
    } else {
        text.to_owned()
    };
    text.parse().map_err(|error: TokenError| error.to_string())
}

/// `https://host:port` from itself or from `host:port`; with `insecure`, `http://host:port`.
fn server(text: &str, insecure: bool) -> Result<String, String> {
    let text = text.trim().trim_end_matches('/');
    let (scheme, other) = if insecure {
        ("http://", "https://")
    } else {
        ("https://", "http://")
    };
    if text.starts_with(other) {
        return Err(if insecure {
            "speaks TLS, but --insecure was given; write http://HOST:PORT".to_owned()
        } else {
            "is plain text, which takes --insecure; write https://HOST:PORT".to_owned()
        });
    }
    let authority = text.strip_prefix(scheme).unwrap_or(text);
    let port = authority
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty() && !host.contains('/'));
    match port.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(1..)) => {}
        Some(_) | None => return Err(format!("is no address of a replica; write {scheme}HOST:PORT")),
    }
    let url = format!("{scheme}{authority}");
    tonic::transport::Endpoint::from_shared(url.clone())
        .map_err(|e| format!("is no address of a replica: {e}"))?;
    Ok(url)
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "is no label; write KEY=VALUE".to_owned())?;
    manifest::check_label(key, value)?;
    Ok((key.to_owned(), value.to_owned()))
}

fn runtime_named(text: &str) -> Result<Runtime, &'static str> {
    let mut all = Runtime::ALL.into_iter();
    all.find(|runtime| runtime.as_str() == text)
        .ok_or("is no runtime; there are native, runc, crun and runsc")
}

fn start_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= SHORTEST_START => Ok(time),
        Ok(_) => Err(format!(
            "is too short; give containers at least {SHORTEST_START:?}"
        )),
        Err(why) => Err(why.to_string()),
    }
}

fn share(percent: u8) -> Result<u8, &'static str> {
    if (1..=100).contains(&percent) {
        Ok(percent)
    } else {
        Err("is no share; write a number from 1 to 100")
    }
}

fn positive<T: Default + PartialEq>(read: Result<T, QuantityError>) -> Result<T, QuantityError> {
    read.and_then(|value| {
        if value == T::default() {
            Err(QuantityError::Zero)
        } else {
            Ok(value)
        }
    })
}

fn subnet(text: &str) -> Result<Subnet, String> {
    match manifest::parse_cidr(text)? {
        Cidr {
            address: IpAddr::V4(address),
            prefix,
        } if PREFIXES.contains(&prefix) && address.is_private() => Ok(Subnet { address, prefix }),
        Cidr { .. } => Err(format!(
            "must be a private IPv4 block with a prefix from {} to {}, such as 10.89.0.0/16",
            PREFIXES.start(),
            PREFIXES.end()
        )),
    }
}

fn id_block(text: &str) -> Result<IdBlock, String> {
    let numbers = text.split_once(':').and_then(|(first, count)| {
        let block = IdBlock {
            first: first.parse().ok()?,
            count: count.parse().ok()?,
        };
        let last = block.first.checked_add(block.count.checked_sub(1)?)?;
        Some((block, last))
    });
    let (block, last) = numbers.ok_or("is no block of ids; write FIRST:COUNT, such as 268435456:65536000")?;
    if block.first < FIRST_USER_ID || last > LAST_USER_ID {
        return Err(format!("reaches beyond {FIRST_USER_ID} to {LAST_USER_ID}"));
    }
    if block.ranges() == 0 {
        return Err(format!("is not enough for one sandbox, which takes {IDS}"));
    }
    Ok(block)
}
