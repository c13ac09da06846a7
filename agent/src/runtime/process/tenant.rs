//! A further process in a container of the built-in runtime. Started by a small program beside the monitor, `sbxlet
//! enter`, as the command lines of the other runtimes are: the monitor's only thread must not wait for what may take as
//! long as a container without cpu time lets it.
//!
//! libcontainer forgets the container's system call filter for such a process: it is loaded here, in the last step.

use super::executor::{ProgramExecutor, Start, pair};
use super::native::{explain, listen};
use super::words::{Words, tell};
use super::{Exec, RuntimeError};
use crate::runtime::sys::terminal::resize;
use clap::Args;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::{LinuxSeccomp, Process, Spec};
use libcontainer::seccomp::initialize_seccomp;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::unistd::{dup, dup2_stderr, dup2_stdin, dup2_stdout};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What to start, and where.
#[derive(Debug, Clone, Args)]
pub struct Tenant {
    /// The folder of libcontainer's states
    #[arg(long)]
    root: PathBuf,
    #[arg(long)]
    container: String,
    #[arg(long)]
    process: PathBuf,
    #[arg(long)]
    pid_file: PathBuf,
    #[arg(long)]
    log_file: PathBuf,
    #[arg(long)]
    console: Option<PathBuf>,
}

/// Why it was not started.
#[derive(Debug, thiserror::Error)]
enum TenantError {
    #[error(transparent)]
    Log(#[from] RuntimeError),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot understand {}: {source}", path.display())]
    Malformed {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("cannot prepare its standard streams: {0}")]
    Streams(io::Error),
    #[error(
        "a container with a system call filter and without no-new-privileges can be entered only with runc and crun"
    )]
    Filter,
    #[error("{0}")]
    Start(String),
}

impl Tenant {
    pub(super) fn of(root: &Path, exec: &Exec<'_>) -> Self {
        Self {
            root: root.to_owned(),
            container: exec.id.to_owned(),
            process: exec.process.to_owned(),
            pid_file: exec.pid_file.to_owned(),
            log_file: exec.log.to_owned(),
            console: exec.console.map(Path::to_owned),
        }
    }

    /// The program that does it.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("sbxlet")
            .arg("enter")
            .arg("--root")
            .arg(&self.root)
            .arg(format!("--container={}", self.container))
            .arg("--process")
            .arg(&self.process)
            .arg("--pid-file")
            .arg(&self.pid_file)
            .arg("--log-file")
            .arg(&self.log_file);
        if let Some(console) = &self.console {
            command.arg("--console").arg(console);
        }
        command
    }
}

/// Starts the process and ends.
#[must_use]
pub fn main(tenant: &Tenant) -> ExitCode {
    match enter(tenant) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The monitor reads it there; where even that fails, it knows of the failure at least.
            tell(&tenant.log_file, &error.to_string()).ok();
            ExitCode::FAILURE
        }
    }
}

fn enter(tenant: &Tenant) -> Result<(), TenantError> {
    listen(&tenant.log_file)?;
    let seccomp = filter(tenant)?;
    let process: Process = json(&tenant.process)?;
    if seccomp.is_some() && process.no_new_privileges() != Some(true) {
        return Err(TenantError::Filter);
    }
    let (program, verdict) = pair().map_err(TenantError::Streams)?;
    let executor = TenantExecutor { program, seccomp };
    let mut words = Words::of(&tenant.log_file);
    words.begin();
    let failed = |fault: LibcontainerError| TenantError::Start(explain(&fault, &words));
    let mut builder = ContainerBuilder::new(tenant.container.clone(), SyscallType::default())
        .with_executor(executor)
        .with_root_path(&tenant.root)
        .and_then(|builder| builder.with_pid_file(Some(&tenant.pid_file)))
        .map_err(failed)?;
    if let Some(console) = &tenant.console {
        let console = std::path::absolute(console).map_err(TenantError::Streams)?;
        builder = builder.with_console_socket(Some(console));
    } else {
        let streams = || Ok((dup(io::stdin())?, dup(io::stdout())?, dup(io::stderr())?));
        let (stdin, stdout, stderr) = streams().map_err(|e: nix::Error| TenantError::Streams(e.into()))?;
        builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr);
    }
    let started = builder
        .as_tenant()
        .with_process(Some(&tenant.process))
        .with_detach(true)
        .build();
    drop_streams().map_err(TenantError::Streams)?;
    match (started, verdict.wait().map_err(TenantError::Streams)?) {
        (_, Start::Failed(why)) => Err(TenantError::Start(why)),
        (Ok(_), Start::Done | Start::Unknown) => Ok(()),
        (Err(fault), Start::Done | Start::Unknown) => Err(failed(fault)),
    }
}

/// So that whoever reads from the process' pipes is not held up by us.
fn drop_streams() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(null.as_fd())?;
    dup2_stdout(null.as_fd())?;
    dup2_stderr(null.as_fd())?;
    Ok(())
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, TenantError> {
    let file = File::open(path).map_err(|source| TenantError::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_reader(io::BufReader::new(file)).map_err(|source| TenantError::Malformed {
        path: path.to_owned(),
        source,
    })
}

/// The container's, as it was started with.
fn filter(tenant: &Tenant) -> Result<Option<LinuxSeccomp>, TenantError> {
    let state: serde_json::Value = json(&tenant.root.join(&tenant.container).join("state.json"))?;
    let bundle = Path::new(state["bundle"].as_str().unwrap_or_default());
    let spec: Spec = json(&bundle.join("config.json"))?;
    Ok(spec.linux().as_ref().and_then(|linux| linux.seccomp().clone()))
}

/// The last step in the container: the filter, the terminal's size, the program.
#[derive(Debug, Clone)]
struct TenantExecutor {
    program: ProgramExecutor,
    seccomp: Option<LinuxSeccomp>,
}

impl Executor for TenantExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        self.program.validate(spec)
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        if let Some(size) = spec.process().as_ref().and_then(|p| p.console_size()) {
            let clamp = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
            // One that can't be set is set again by the user's next resize.
            resize(io::stdin().as_fd(), clamp(size.height()), clamp(size.width())).ok();
        }
        if let Some(seccomp) = &self.seccomp {
            let set = initialize_seccomp(seccomp);
            set.map_err(|fault| ExecutorError::Other(format!("set its system call filter: {fault}")))?;
        }
        self.program.exec(spec)
    }
}
