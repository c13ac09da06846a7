//! `sbxctl events`: what has happened to sandboxes and nodes, the newest last.

use crate::args::{self, EventsArgs, Format};
use crate::commands::target::Target;
use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::output::{self, Happened, Items};
use proto::document::Document;
use proto::object::Kind;
use proto::wire;

/// # Errors
/// [`Failure`]
pub async fn run(args: &EventsArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    let targets = args::targets(&args.targets)?;
    if !targets.is_empty() && !args.labels.is_empty() {
        return Err(Failure::Usage("name objects, or select with -l".to_owned()));
    }
    let client = invocation.client()?;
    let mut objects = Vec::new();
    for Target { kind, id } in &targets {
        objects.push(client.look_at(*kind, id, false, true).await?);
    }
    if targets.is_empty() {
        for kind in [Kind::Node, Kind::Sandbox] {
            let request = wire::ListRequest {
                kind: wire::Kind::from(kind).into(),
                labels: args.labels.iter().cloned().collect(),
                events: true,
                ..Default::default()
            };
            objects.extend(client.list(&request).await?.items);
        }
    }
    let mut happened: Vec<Happened> = Vec::new();
    for object in objects {
        happened.extend(Happened::to(Document::try_from(object)?));
    }
    happened.sort_by_key(|happened| happened.event.last_at);
    let text = match invocation.format() {
        Format::Table | Format::Wide => output::event_table(&happened, Invocation::now()),
        format @ (Format::Json | Format::Yaml) => output::document(&Items { items: happened }, format)?,
    };
    invocation.write(text.as_bytes())
}
