//! `docker run -d -p` and `podman run -d -p`: whole container engines, as their users know them.

use super::contender::{Contender, Started};
use super::image;
use crate::error::BenchError;
use crate::http;
use crate::local::output;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;

pub(super) struct Engine {
    program: &'static str,
}

impl Engine {
    /// # Errors
    /// Where it is not installed, or its daemon does not run.
    pub(super) fn prepare(program: &'static str, folder: &Path) -> Result<Self, BenchError> {
        let mut info = Command::new(program);
        info.arg("info");
        output(info)?;
        let archive = image::for_engines(folder)?;
        let mut load = Command::new(program);
        load.arg("load").arg("--input").arg(archive);
        output(load)?;
        Ok(Self { program })
    }

    fn name(&self, number: u32) -> String {
        format!("bench-{}-{number}", std::process::id())
    }

    async fn step(&self, args: Vec<String>) -> Result<String, BenchError> {
        let mut command = Command::new(self.program);
        command.args(args);
        let done = spawn_blocking(move || output(command)).await;
        done.map_err(|e| BenchError::Run {
            program: self.program.to_owned(),
            source: e.into(),
        })?
    }
}

impl Contender for Engine {
    async fn start(&self, number: u32) -> Result<Started, BenchError> {
        let name = self.name(number);
        let port = image::PORT.to_string();
        let publish = format!("127.0.0.1::{port}");
        let run = ["run", "-d", "-p", &publish, "--name", &name, image::NAME];
        let args = run.into_iter().map(str::to_owned).chain(image::server(&port));
        let begun = Instant::now();
        self.step(args.collect()).await?;
        let started = Instant::now();
        // Chosen by the engine, as ours is by the cluster.
        let told = self.step(vec!["port".to_owned(), name, port]).await?;
        let asked = started.elapsed();
        let port = told
            .lines()
            .next()
            .and_then(|line| line.rsplit(':').next()?.trim().parse().ok());
        let port = port.ok_or_else(|| BenchError::NoAddress(told.clone()))?;
        let answered = http::first_ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        // Asking for the port is not part of what it takes.
        let answered = (answered - begun).saturating_sub(asked);
        Ok(Started {
            answered,
            stages: [("run".to_owned(), started - begun)].into(),
        })
    }

    async fn end(&self, number: u32) -> Result<Duration, BenchError> {
        let begun = Instant::now();
        self.step(vec!["rm".to_owned(), "--force".to_owned(), self.name(number)])
            .await?;
        Ok(begun.elapsed())
    }
}
