//! `sbxctl delete`: by name or by manifest.

use super::Tally;
use super::apply::source;
use super::target::Target;
use super::wait::{self, Goal};
use crate::args::{self, DeleteArgs};
use crate::client::{Client, identity};
use crate::failure::Failure;
use crate::invocation::Invocation;
use proto::object::Kind;

/// # Errors
/// [`Failure`]
pub async fn run(args: &DeleteArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("delete")?;
    let targets = targets(args)?;
    let client = invocation.client()?;
    let mut tally = Tally::default();
    let mut deleted = Vec::new();
    for target in targets {
        let done = delete(&client, &target, args).await;
        match tally.note(done, invocation)? {
            Some(true) => {
                invocation.say(format_args!("{target} deleted"))?;
                deleted.push(target);
            }
            Some(false) => invocation.note(format_args!("{target} is not there")),
            None => {}
        }
    }
    if args.wait {
        invocation.flush()?;
        wait::until(&client, &deleted, Goal::Deleted, args.timeout, invocation).await?;
    }
    tally.finish()
}

/// Whether it was there.
async fn delete(client: &Client, target: &Target, args: &DeleteArgs) -> Result<bool, Failure> {
    match client.delete(target.kind, &target.id, args.force).await {
        Ok(()) => Ok(true),
        Err(error) if args.ignore_not_found && error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn targets(args: &DeleteArgs) -> Result<Vec<Target>, Failure> {
    let mut targets = args::targets(&args.targets)?;
    // What was applied last depends on what was applied first.
    for sourced in source::read_all(&args.files.filename)?.iter().rev() {
        let (kind, id) = identity(&sourced.manifest);
        targets.push(Target {
            kind,
            id: id.to_owned(),
        });
    }
    if targets.is_empty() {
        return Err(Failure::Usage(
            "name what to delete: KIND ID..., KIND/ID..., or -f FILE".to_owned(),
        ));
    }
    if args.force && targets.iter().all(|target| target.kind != Kind::Node) {
        return Err(Failure::Usage("--force is for nodes".to_owned()));
    }
    Ok(targets)
}
