//! `sbxctl apply`: checks every manifest, then sends them in their order.

pub(super) mod source;

use super::Tally;
use super::target::Target;
use super::wait::{self, Goal};
use crate::args::{ApplyArgs, Format};
use crate::client::{Client, identity};
use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::output::{self, Items};
use proto::document::Document;
use proto::object::Kind;
use proto::spec::Manifest;
use proto::wire::{ApplyResponse, Outcome};

/// # Errors
/// [`Failure`]
pub async fn run(args: &ApplyArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    args.files.required("apply")?;
    let sourced = source::read_all(&args.files.filename)?;
    let client = invocation.client()?;
    let mut tally = Tally::default();
    let mut views = Vec::new();
    let mut sandboxes = Vec::new();
    for manifest in sourced.iter().map(|s| &s.manifest) {
        let applied = apply(&client, manifest, args.replace).await;
        let Some((target, response)) = tally.note(applied, invocation)? else {
            continue;
        };
        let outcome = outcome_text(response.outcome());
        match invocation.format() {
            Format::Table | Format::Wide => invocation.say(format_args!("{target} {outcome}"))?,
            Format::Json | Format::Yaml => {
                invocation.note(format_args!("{target} {outcome}"));
                if let Some(object) = &response.object {
                    views.push(Document::try_from(object.clone())?);
                }
            }
        }
        if target.kind == Kind::Sandbox {
            sandboxes.push(target);
        }
    }
    match invocation.format() {
        Format::Table | Format::Wide => {}
        format @ (Format::Json | Format::Yaml) => {
            let text = match <[Document; 1]>::try_from(views) {
                Ok([view]) => output::document(&view, format)?,
                Err(items) => output::document(&Items { items }, format)?,
            };
            invocation.write(text.as_bytes())?;
        }
    }
    if args.wait {
        invocation.flush()?;
        wait::until(&client, &sandboxes, Goal::Started, args.timeout, invocation).await?;
    }
    tally.finish()
}

async fn apply(
    client: &Client,
    manifest: &Manifest,
    replace: bool,
) -> Result<(Target, ApplyResponse), Failure> {
    let (kind, id) = identity(manifest);
    let target = Target {
        kind,
        id: id.to_owned(),
    };
    let response = client.apply(manifest, replace).await?;
    Ok((target, response))
}

fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Configured => "configured",
        Outcome::Unchanged => "unchanged",
        Outcome::Replaced => "replaced",
        Outcome::Deleted => "deleted",
        Outcome::Accepted | Outcome::Unspecified => "accepted",
    }
}
