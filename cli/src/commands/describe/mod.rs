//! `sbxctl describe`: one object with all that is known of it, and what has happened to it.

use crate::args::{self, DescribeArgs, Format};
use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::output;
use proto::document::Document;

/// # Errors
/// [`Failure`]
pub async fn run(args: &DescribeArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    let targets = args::targets(&args.targets)?;
    let client = invocation.client()?;
    for (n, target) in targets.iter().enumerate() {
        let object = client.look_at(target.kind, &target.id, args.stale, true).await?;
        let document = Document::try_from(object)?;
        let text = match invocation.format() {
            Format::Table | Format::Wide => output::description(&document, Invocation::now())?,
            format @ (Format::Json | Format::Yaml) => output::document(&document, format)?,
        };
        if n > 0 {
            invocation.write(b"\n")?;
        }
        invocation.write(text.as_bytes())?;
    }
    Ok(())
}
