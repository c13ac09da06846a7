//! `sbxctl logs`: what a sandbox's containers have written.

use crate::args::{LogsArgs, Since};
use crate::client::{Change, Client};
use crate::failure::Failure;
use crate::invocation::Invocation;
use proto::object::Kind;
use proto::status::Phase;
use proto::units::Timestamp;
use proto::wire::{self, object::Object};
use std::io::Write;

/// # Errors
/// [`Failure`]
pub async fn run(args: &LogsArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("logs")?;
    let id = args
        .sandbox
        .rsplit_once('/')
        .map_or(args.sandbox.as_str(), |(_, id)| id);
    let client = invocation.client()?;
    let sandbox = match args.follow {
        true => placed(&client, id, invocation).await?,
        false => expect_sandbox(client.get(Kind::Sandbox, id, false).await?)?,
    };
    let names: Vec<&str> = sandbox
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .map(|c| c.name.as_str())
        .collect();
    if let Some(container) = &args.container
        && !names.contains(&container.as_str())
    {
        return Err(Failure::Usage(format!(
            "sandbox/{id} has no container `{container}`; it has {}",
            names.join(", ")
        )));
    }
    let prefixed = args.container.is_none() && names.len() > 1;
    let mut lines = client.logs(wire::LogsRequest {
        sandbox_id: id.to_owned(),
        container: args.container.clone().unwrap_or_default(),
        follow: args.follow,
        tail: args.tail,
        since_ms: since_ms(args.since, Invocation::now()),
        timestamps: args.timestamps,
    });
    while let Some(line) = lines.next().await? {
        invocation.write(&render(&line, prefixed, args.timestamps))?;
        if args.follow {
            invocation.flush()?;
        }
    }
    Ok(())
}

fn since_ms(since: Option<Since>, now: Timestamp) -> u64 {
    match since {
        None => 0,
        Some(Since::At(ms)) => ms,
        Some(Since::Ago(ago)) => now
            .0
            .saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// `[container] time text`, byte for byte what was written.
fn render(line: &wire::LogLine, prefixed: bool, timestamps: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(line.line.len() + 64);
    if prefixed {
        bytes.extend_from_slice(format!("[{}] ", line.container).as_bytes());
    }
    if timestamps {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(line.time_unix_ns);
        // Writing to memory can't fail.
        write!(bytes, "{} ", humantime::format_rfc3339_nanos(time)).ok();
    }
    bytes.extend_from_slice(&line.line);
    bytes.push(b'\n');
    bytes
}

/// Waits until a node has the sandbox: there are no lines to follow before.
async fn placed(client: &Client, id: &str, invocation: &mut Invocation) -> Result<wire::Sandbox, Failure> {
    let sandbox = expect_sandbox(client.get(Kind::Sandbox, id, false).await?)?;
    if phase(&sandbox) != Some(Phase::Pending) {
        return Ok(sandbox);
    }
    invocation.note(format_args!("sandbox/{id} is Pending; waiting for its placement"));
    let mut changes = client.watch(wire::WatchRequest {
        kind: wire::Kind::Sandbox.into(),
        id: id.to_owned(),
        ..Default::default()
    });
    loop {
        match changes.next().await? {
            Change::Changed(object) => {
                let sandbox = expect_sandbox(object)?;
                if phase(&sandbox) != Some(Phase::Pending) {
                    return Ok(sandbox);
                }
            }
            Change::Deleted(_) => {
                return Err(Failure::NeverComes(format!(
                    "sandbox/{id} was deleted before it was placed"
                )));
            }
            Change::Synced => {}
        }
    }
}

fn phase(sandbox: &wire::Sandbox) -> Option<Phase> {
    Phase::try_from(sandbox.status.as_ref()?.phase()).ok()
}

fn expect_sandbox(object: wire::Object) -> Result<wire::Sandbox, Failure> {
    match object.object {
        Some(Object::Sandbox(sandbox)) => Ok(sandbox),
        Some(Object::Node(_) | Object::External(_)) | None => {
            Err(proto::convert::ConvertError::Missing { field: "sandbox" }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prefixed: bool, timestamps: bool, expected: &str) {
        let line = wire::LogLine {
            container: "web".to_owned(),
            stderr: true,
            time_unix_ns: 1_700_000_000_000_000_001,
            line: b"hello".to_vec(),
        };
        assert_eq!(render(&line, prefixed, timestamps), expected.as_bytes());
    }

    #[test]
    fn line_is_rendered_with_what_was_asked_for() {
        check(false, false, "hello\n");
        check(true, false, "[web] hello\n");
        check(false, true, "2023-11-14T22:13:20.000000001Z hello\n");
        check(true, true, "[web] 2023-11-14T22:13:20.000000001Z hello\n");
    }
}
