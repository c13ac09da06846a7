//! A local cluster of real replicas and agents, brought up by `sbxctl dev up` as a user would, in a folder and
//! a network of its own. Everything is done through the command line; dropping it takes the cluster down.

use crate::registry;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Lines of each member's log that a failed test shows.
const LOG_TAIL: usize = 40;

pub struct Cluster {
    dir: tempfile::TempDir,
    server: Option<String>,
    level: Option<u32>,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The command's stdout, where it succeeded.
    ///
    /// # Panics
    /// With all that it said, where it failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:#?}");
        self.stdout
    }

    /// # Panics
    /// Where it succeeded, ended otherwise than with `code`, or did not say `told`.
    #[track_caller]
    pub fn fails(self, code: i32, told: &str) {
        assert_eq!(self.code, code, "{self:#?}");
        assert!(self.stderr.contains(told), "{self:#?} does not say {told:?}");
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Cluster {
    /// Three replicas, as many agents as asked for, and further arguments of `sbxctl dev up`.
    ///
    /// # Panics
    /// Where it does not come up.
    #[track_caller]
    pub fn up(agents: u8, more: &[&str]) -> Self {
        Self::of_version(None, agents, more)
    }

    /// Of replicas that are the last version that spoke this format level.
    ///
    /// # Panics
    /// Where it does not come up.
    #[track_caller]
    pub fn of_version(level: Option<u32>, agents: u8, more: &[&str]) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make namespaces and run containers: run them as root"
        );
        let dir = tempfile::tempdir().expect("a folder");
        let cluster = Self {
            dir,
            server: None,
            level,
        };
        let mirror = format!("docker.io=http://{{host}}:{}", registry::port());
        let agents = agents.to_string();
        let mut args = vec!["dev", "up", "--agents", &agents, "--mirror", &mirror];
        args.extend(more);
        cluster.sbxctl(&args).ok();
        cluster
    }

    /// Where the members live.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    /// The command line, set up for this cluster.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(program("sbxctl"));
        command
            .env("SBX_RUN_DIR", self.dir.path().join("run"))
            .env("SBX_DEV_DIR", self.dir())
            .env_remove("SBX_SERVER")
            .env_remove("SBX_TOKEN")
            .env_remove("SBX_CA")
            .env_remove("SBX_CONTEXT");
        if let Some(server) = &self.server {
            command.env("SBX_SERVER", server);
        }
        if let Some(level) = self.level {
            command.env("SANDBOXD_TEST_LEVEL", level.to_string());
        }
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// Where there is no `sbxctl`.
    #[track_caller]
    pub fn sbxctl(&self, args: &[&str]) -> Ran {
        let output = self.command().args(args).stdin(Stdio::null()).output();
        output.expect("sbxctl runs").into()
    }

    /// Runs a command line without spaces in its arguments.
    #[track_caller]
    pub fn run(&self, line: &str) -> Ran {
        self.sbxctl(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Starts a command whose output is read while it runs.
    ///
    /// # Panics
    /// Where there is no `sbxctl`.
    #[must_use]
    pub fn start(&self, line: &str) -> Child {
        self.command()
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("sbxctl runs")
    }

    /// `sbxctl apply -f -` of a manifest, with further arguments.
    ///
    /// # Panics
    /// Where it can't be run.
    #[track_caller]
    pub fn apply(&self, manifest: &str, more: &[&str]) -> Ran {
        let mut child = self
            .command()
            .args(["apply", "-f", "-"])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sbxctl runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin
            .write_all(manifest.as_bytes())
            .expect("sbxctl reads the manifest");
        drop(stdin);
        child.wait_with_output().expect("sbxctl ends").into()
    }

    /// One object as `get -o json` shows it.
    ///
    /// # Panics
    /// Where it is not there.
    #[track_caller]
    pub fn get(&self, kind: &str, id: &str) -> Value {
        let text = self.sbxctl(&["get", kind, id, "-o", "json"]).ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// `sbxctl dev status` by member.
    ///
    /// # Panics
    /// Where it does not answer.
    #[track_caller]
    pub fn members(&self) -> Vec<Member> {
        let text = self.sbxctl(&["dev", "status", "-o", "json"]).ok();
        let status: Value = serde_json::from_str(&text).expect("status is JSON");
        let members = status["members"].as_array().expect("a list of members").iter();
        members.map(Member::from).collect()
    }

    /// The member whose role is this: `leader`, `follower`.
    ///
    /// # Panics
    /// Where there is none.
    #[track_caller]
    pub fn member_that_is(&self, role: &str) -> Member {
        let members = self.members();
        let found = members.iter().find(|m| m.role == role).cloned();
        found.unwrap_or_else(|| panic!("no {role} among {members:?}"))
    }

    /// The name of the replica that a quorum follows; waits for an election that is going on.
    ///
    /// # Panics
    /// Where no replica can tell.
    #[track_caller]
    pub fn leader(&self) -> String {
        let text = self.sbxctl(&["get", "cluster", "-o", "json"]).ok();
        let cluster: Value = serde_json::from_str(&text).expect("the cluster is JSON");
        format!("replica-{}", cluster["leader_id"])
    }

    /// The member of this name.
    ///
    /// # Panics
    /// Where there is none.
    #[track_caller]
    pub fn member(&self, name: &str) -> Member {
        let members = self.members();
        let found = members.iter().find(|m| m.name == name).cloned();
        found.unwrap_or_else(|| panic!("no {name} among {members:?}"))
    }

    /// From now on, commands speak to this replica alone.
    pub fn speak_to(&mut self, member: &Member) {
        self.server = Some(member.endpoint());
    }

    /// From now on, commands speak to the whole cluster.
    pub fn speak_to_all(&mut self) {
        self.server = None;
    }

    /// Replicas that are started from now on are the last version that spoke this format level; `None`: the present one.
    pub fn start_version(&mut self, level: Option<u32>) {
        self.level = level;
    }

    /// Waits for a state as `sbxctl wait` does.
    #[track_caller]
    pub fn wait(&self, target: &str, goal: &str, timeout: Duration) -> Ran {
        let timeout = format!("{}ms", timeout.as_millis());
        self.sbxctl(&["wait", target, "--for", goal, "--timeout", &timeout])
    }

    /// Runs a program of the machine in the network of a member.
    ///
    /// # Panics
    /// Where it can't be run.
    #[track_caller]
    pub fn inside(&self, member: &str, args: &[&str]) -> Ran {
        let netns = self.dir().join(member).join("netns");
        let output = Command::new("nsenter")
            .arg(format!("--net={}", netns.display()))
            .args(args)
            .output();
        output.expect("nsenter runs").into()
    }
}

/// One line of `sbxctl dev status`.
#[derive(Debug, Clone)]
pub struct Member {
    pub name: String,
    pub address: String,
    /// running, paused or dead.
    pub process: String,
    pub pid: Option<u64>,
    pub role: String,
}

impl Member {
    /// For users and agents.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://{}:7070", self.address)
    }
}

impl From<&Value> for Member {
    fn from(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Self {
            name: text("name"),
            address: text("address"),
            process: text("process"),
            pid: value["pid"].as_u64(),
            role: text("role"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        let down = self.sbxctl(&["dev", "down"]);
        if !std::thread::panicking() {
            assert_eq!(down.code, 0, "the cluster can't be taken down: {down:#?}");
        } else if down.code != 0 {
            // The first failure is the one to see.
            self.tell(&format!("the cluster can't be taken down: {down:#?}"));
        }
    }
}

impl Cluster {
    fn show_logs(&self) {
        let members = std::fs::read_dir(self.dir()).into_iter().flatten().flatten();
        for log in members.map(|member| member.path().join("log")) {
            if let Ok(text) = std::fs::read_to_string(&log) {
                let lines: Vec<&str> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
                self.tell(&format!("==> {} <==\n{}", log.display(), tail.join("\n")));
            }
        }
    }

    fn tell(&self, text: &str) {
        writeln!(std::io::stderr(), "{text}").ok();
    }
}

/// A program of this workspace, built beside the running test.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the running program has a path");
    let folder = test
        .parent()
        .and_then(Path::parent)
        .expect("deps/ in the build folder");
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace` first, or `deploy/test.sh`, which does",
        path.display()
    );
    path
}
