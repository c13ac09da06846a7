//! A cluster of real processes on this machine, brought up and taken down by `sbxctl dev` in a folder of its own.

use crate::error::BenchError;
use cli::context;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The only node: everything is measured on one.
pub(crate) const AGENT: &str = "agent-1";

pub(crate) struct Local {
    dir: tempfile::TempDir,
    programs: PathBuf,
}

impl Local {
    /// With one agent. `cpu`: processors that the node says it has, so that admission bounds nothing here.
    pub(crate) fn with_agent(programs: &Path, replicas: u8, cpu: u32) -> Result<Self, BenchError> {
        let cpu = format!("--agent-arg=--cpu={cpu}");
        Self::up(
            programs,
            &["--agents", "1", "--replicas", &replicas.to_string(), &cpu],
        )
    }

    /// Brings it up; `args` are further ones of `sbxctl dev up`.
    pub(crate) fn up(programs: &Path, args: &[&str]) -> Result<Self, BenchError> {
        let dir = tempfile::tempdir().map_err(|source| BenchError::System {
            act: "make a folder",
            source,
        })?;
        let local = Self {
            dir,
            programs: programs.to_owned(),
        };
        local.run("sbxctl", &[&["dev", "up"], args].concat())?;
        Ok(local)
    }

    /// Runs a program of ours, set up for this cluster, and gives what it writes.
    pub(crate) fn run(&self, name: &str, args: &[&str]) -> Result<String, BenchError> {
        output(self.command(name, args))
    }

    /// Starts a program of ours, set up for this cluster, and lets it run.
    pub(crate) fn start(&self, name: &str, args: &[&str]) -> Result<Child, BenchError> {
        let mut command = self.command(name, args);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().map_err(|source| BenchError::Run {
            program: name.to_owned(),
            source,
        })
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command
            .env("SBX_RUN_DIR", self.dir.path().join("run"))
            .env("SBX_DEV_DIR", self.members())
            .env_remove("SBX_SERVER")
            .args(args);
        command
    }

    /// The folder of the whole run, on the disk that the replicas write to.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the members live.
    pub(crate) fn members(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    /// The authority and everybody's certificates.
    pub(crate) fn identity(&self) -> PathBuf {
        self.members().join("identity")
    }

    /// How the cluster is reached.
    pub(crate) fn context(&self) -> Result<context::File, BenchError> {
        Ok(context::File::read(&self.identity().join(context::FILE))?)
    }

    /// Where the agent keeps what it has.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.members().join(AGENT).join("state")
    }

    /// The members as `sbxctl dev status` shows them.
    pub(crate) fn status(&self) -> Result<serde_json::Value, BenchError> {
        let text = self.run("sbxctl", &["dev", "status", "-o", "json"])?;
        serde_json::from_str(&text).map_err(|source| BenchError::System {
            act: "read what `sbxctl dev status` says",
            source: source.into(),
        })
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Err(error) = self.run("sbxctl", &["dev", "down"]) {
            eprintln!("sbxbench: the cluster can't be taken down: {error}");
        }
    }
}

/// Runs a command to its end, and gives its stdout.
pub(crate) fn output(mut command: Command) -> Result<String, BenchError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| BenchError::Run { program, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = [&output.stderr, &output.stdout].map(|text| String::from_utf8_lossy(text).trim().to_owned());
    Err(BenchError::Failed {
        command: format!("{command:?}"),
        status: output.status,
        words: words.join(" "),
    })
}

/// Where our programs are: there, or beside the running one.
pub(crate) fn programs(named: Option<&Path>) -> Result<PathBuf, BenchError> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let own = std::env::current_exe().map_err(|source| BenchError::System {
        act: "find the running program",
        source,
    })?;
    Ok(own.parent().map(Path::to_owned).unwrap_or_default())
}
