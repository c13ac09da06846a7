//! `sbxctl get --watch`: what is there, then every change as it happens.

use crate::args::{Format, GetArgs};
use crate::client::{Change, Client};
use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::output::{self, Table};
use proto::document::Document;
use proto::object::Kind;
use proto::status::Phase;
use proto::wire::{self, object::Object};
use serde::Serialize;

/// One line of `--watch -o json`.
#[derive(Serialize)]
struct Event {
    #[serde(rename = "type")]
    kind: &'static str,
    object: Document,
}

pub(super) async fn run(
    client: &Client,
    kind: Kind,
    ids: &[String],
    args: &GetArgs,
    invocation: &mut Invocation,
) -> Result<(), Failure> {
    let id = match ids {
        [] => String::new(),
        [id] => id.clone(),
        _ => return Err(Failure::Usage("--watch takes one id, or none for all".to_owned())),
    };
    let mut changes = client.watch(wire::WatchRequest {
        kind: wire::Kind::from(kind).into(),
        id,
        labels: args.labels.iter().cloned().collect(),
        ..Default::default()
    });
    let wide = invocation.format() == Format::Wide;
    let mut table = Table::new(output::header(kind, wide));
    // What was there at the start is aligned together, then each change is shown at once.
    let mut synced = false;
    loop {
        let (object, event) = match changes.next().await? {
            Change::Synced => {
                synced = true;
                if matches!(invocation.format(), Format::Table | Format::Wide) {
                    invocation.write(table.titles().as_bytes())?;
                    invocation.write(table.take_rows().as_bytes())?;
                }
                invocation.flush()?;
                continue;
            }
            Change::Changed(object) => (object, "changed"),
            Change::Deleted(object) => (object, "deleted"),
        };
        if args.phase.is_some_and(|phase| phase_of(&object) != Some(phase)) {
            continue;
        }
        match invocation.format() {
            Format::Table | Format::Wide => {
                let mut row = output::row(&object, Invocation::now(), wide)?;
                if event == "deleted"
                    && let Some(state) = row.get_mut(1)
                {
                    "Deleted".clone_into(state);
                }
                table.push(row);
                if synced {
                    invocation.write(table.take_rows().as_bytes())?;
                }
            }
            format @ (Format::Json | Format::Yaml) => {
                let object = Document::try_from(object.clone())?;
                let text = output::streamed(&Event { kind: event, object }, format)?;
                invocation.write(text.as_bytes())?;
            }
        }
        if synced {
            invocation.flush()?;
        }
    }
}

fn phase_of(object: &wire::Object) -> Option<Phase> {
    match object.object.as_ref()? {
        Object::Sandbox(sandbox) => Phase::try_from(sandbox.status.as_ref()?.phase()).ok(),
        Object::Node(_) | Object::External(_) => None,
    }
}
