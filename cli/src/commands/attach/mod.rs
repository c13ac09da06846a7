//! `sbxctl attach`: what a container writes from now on.

use super::exec::output;
use crate::args::AttachArgs;
use crate::failure::Failure;
use crate::invocation::Invocation;
use proto::wire::{AttachRequest, RelayRequest, relay_request::What};

/// # Errors
/// [`Failure::Exited`] with the container's own code where that is not 0, else whatever kept it from being seen.
pub async fn run(args: &AttachArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("attach")?;
    if args.stdin {
        return Err(Failure::Usage(
            "containers are started without an input, so that -i can't reach one: `sbxctl exec -i` runs a command \
             that takes yours"
                .to_owned(),
        ));
    }
    let id = output::sandbox(&args.sandbox);
    let request = RelayRequest {
        sandbox_id: id.to_owned(),
        container: args.container.clone().unwrap_or_default(),
        what: Some(What::Attach(AttachRequest {})),
    };
    let client = invocation.client()?;
    let conversation = client
        .converse(&format!("attach to sandbox/{id}"), request)
        .await?;
    let _says = conversation.says;
    let ended = output::write(conversation.hears).await?;
    if !ended.message.is_empty() {
        invocation.note(format_args!("sbxctl: {}", ended.message));
    }
    output::code(ended.code)
}
