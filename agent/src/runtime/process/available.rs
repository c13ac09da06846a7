//! Which runtimes a node has. Asked once, when an agent starts.

use super::{program, runsc};
use proto::spec::Runtime;
use proto::status::RuntimeInfo;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// The built-in runtime is the agent.
const OWN: &str = env!("CARGO_PKG_VERSION");
/// A program tells its version within milliseconds; one that does not is of no use.
const PATIENCE: Duration = Duration::from_secs(5);

/// The built-in runtime, and those found on the search path that can run a sandbox here, in the order of
/// [`Runtime::ALL`].
pub async fn runtimes() -> Vec<RuntimeInfo> {
    let asked = Runtime::ALL.map(|runtime| async move {
        let version = match runtime {
            Runtime::Native => Some(OWN.to_owned()),
            Runtime::Runc | Runtime::Crun => ask(runtime, &[]).await,
            // One that does not know the flags is too old.
            Runtime::Runsc => ask(runtime, &runsc::FLAGS).await,
        };
        version.map(|version| RuntimeInfo { runtime, version })
    });
    futures::future::join_all(asked)
        .await
        .into_iter()
        .flatten()
        .collect()
}

/// `None`: it is not there, or does not work. It is run as it would be for a container.
async fn ask(runtime: Runtime, flags: &[&str]) -> Option<String> {
    let mut command = Command::from(program::command(runtime));
    command
        .args(flags)
        .arg("--version")
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) if output.status.success() => output,
        Ok(Err(fault)) if fault.kind() == std::io::ErrorKind::NotFound => return None,
        unusable => {
            tracing::warn!(
                %runtime,
                ?unusable,
                "this runtime is not used: it does not tell its version"
            );
            return None;
        }
    };
    version(&String::from_utf8_lossy(&output.stdout))
}

/// The word behind `version` in the first line: all three say `<program> version <version>`.
fn version(said: &str) -> Option<String> {
    let (_, version) = said.lines().next()?.split_once(" version ")?;
    version.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_runtimes_say() {
        #[track_caller]
        fn check(said: &str, want: Option<&str>) {
            assert_eq!(version(said).as_deref(), want, "{said:?}");
        }
        check("runc version 1.1.5+ds1\ncommit: 1.1.5\n", Some("1.1.5+ds1"));
        check("crun version 1.8.1\nspec: 1.0.0\n", Some("1.8.1"));
        check("runsc version release-20240311.0\n", Some("release-20240311.0"));
        check("usage: runc\n", None);
        check("", None);
    }

    #[tokio::test]
    async fn node_has_the_built_in_runtime_and_those_that_are_installed() {
        let found = runtimes().await;
        let kinds: Vec<Runtime> = found.iter().map(|info| info.runtime).collect();
        assert!(
            kinds.starts_with(&[Runtime::Native, Runtime::Runc, Runtime::Crun]),
            "runc and crun are installed: {found:?}"
        );
        assert!(found.iter().all(|info| !info.version.is_empty()));
    }
}
