//! `runc` and `crun` alone: create and start of one container in namespaces of its own but for the network, which is the
//! machine's, on a read-only root that is there already. Nobody watches it, limits it or keeps its output: the floor.

use super::contender::{Contender, Started};
use super::image;
use crate::error::BenchError;
use crate::http;
use crate::local::output;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;

/// crun makes no containers where a unified tree of cgroups with controllers stands beside those of version 1, unless it
/// does not see it.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

pub(super) struct Bare {
    runtime: &'static str,
    folder: PathBuf,
    template: Value,
    hides_unified: bool,
    ports: Mutex<BTreeMap<u32, u16>>,
}

impl Bare {
    pub(super) fn prepare(runtime: &'static str, folder: &Path) -> Result<Self, BenchError> {
        let mut version = Command::new(runtime);
        version.arg("--version");
        output(version)?;
        let folder = folder.join(runtime);
        let root = folder.join("rootfs");
        let make = |path: &Path| {
            std::fs::create_dir_all(path).map_err(|source| BenchError::Write {
                path: path.to_owned(),
                source,
            })
        };
        make(&root)?;
        image::unpack(&root)?;
        let spec = folder.join("spec");
        make(&spec)?;
        let mut render = Command::new(runtime);
        render.arg("spec").current_dir(&spec);
        output(render)?;
        let path = spec.join("config.json");
        let read = |source| BenchError::System {
            act: "read the runtime's example of a specification",
            source,
        };
        let text = std::fs::read(&path).map_err(read)?;
        let mut template: Value = serde_json::from_slice(&text).map_err(|e| read(e.into()))?;
        template["process"]["terminal"] = json!(false);
        template["root"]["path"] = json!(root);
        template["root"]["readonly"] = json!(true);
        let namespaces = template["linux"]["namespaces"].as_array_mut();
        namespaces
            .into_iter()
            .for_each(|all| all.retain(|n| n["type"] != "network"));
        let is_there = Path::new(UNIFIED).exists();
        Ok(Self {
            runtime,
            folder,
            template,
            hides_unified: runtime == "crun" && is_there,
            ports: Mutex::default(),
        })
    }

    fn id(&self, number: u32) -> String {
        format!("bench-{}-{}-{number}", self.runtime, std::process::id())
    }

    /// One step of the runtime; its containers inherit nothing that would have to be read.
    async fn step(&self, args: Vec<OsString>) -> Result<(), BenchError> {
        let mut command = if self.hides_unified {
            let mut command = Command::new("unshare");
            let script = format!("umount -l {UNIFIED} && exec {} \"$@\"", self.runtime);
            command.args(["--mount", "sh", "-c", &script, "sh"]);
            command
        } else {
            Command::new(self.runtime)
        };
        command
            .arg("--root")
            .arg(self.folder.join("state"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let run = |source| BenchError::Run {
            program: self.runtime.to_owned(),
            source,
        };
        let words = format!("{command:?}");
        let status = spawn_blocking(move || command.status());
        let status = status.await.map_err(|e| run(e.into()))?.map_err(run)?;
        if status.success() {
            return Ok(());
        }
        Err(BenchError::Failed {
            command: words,
            status,
            words: String::new(),
        })
    }
}

impl Contender for Bare {
    async fn start(&self, number: u32) -> Result<Started, BenchError> {
        let bundle = self.folder.join(number.to_string());
        // Free at this moment.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
        let address: SocketAddr = free.map_err(|source| BenchError::System {
            act: "find a free port",
            source,
        })?;
        if let Ok(mut ports) = self.ports.lock() {
            ports.insert(number, address.port());
        }
        let mut spec = self.template.clone();
        spec["process"]["args"] = json!(image::server(&address.to_string()));
        let path = bundle.join("config.json");
        let written = std::fs::create_dir_all(&bundle).and_then(|()| std::fs::write(&path, spec.to_string()));
        written.map_err(|source| BenchError::Write { path, source })?;
        let id = OsString::from(self.id(number));
        let begun = Instant::now();
        self.step(vec![
            "create".into(),
            "--bundle".into(),
            bundle.into(),
            id.clone(),
        ])
        .await?;
        let created = Instant::now();
        self.step(vec!["start".into(), id]).await?;
        let started = Instant::now();
        let answered = http::first_ok(address).await?;
        let stages = [
            ("create", created - begun),
            ("start", started - created),
            ("started to answered", answered.saturating_duration_since(started)),
        ];
        Ok(Started {
            answered: answered - begun,
            stages: stages.map(|(stage, time)| (stage.to_owned(), time)).into(),
        })
    }

    async fn end(&self, number: u32) -> Result<Duration, BenchError> {
        let is_known = self
            .ports
            .lock()
            .is_ok_and(|mut ports| ports.remove(&number).is_some());
        if !is_known {
            return Ok(Duration::ZERO);
        }
        let begun = Instant::now();
        self.step(vec!["delete".into(), "--force".into(), self.id(number).into()])
            .await?;
        Ok(begun.elapsed())
    }
}
