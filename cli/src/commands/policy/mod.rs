//! `sbxctl policy`: shows and changes what sandboxes may loosen of their isolation.

use crate::args::{Format, PolicyArgs, PolicyCommand, PolicyName};
use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::output::{self, Table};
use proto::policy::{Policy, PolicyChange};

/// # Errors
/// [`Failure`]
pub async fn run(args: &PolicyArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    let client = invocation.client()?;
    let policy = match &args.command {
        PolicyCommand::Get { stale } => client.policy(*stale).await?,
        PolicyCommand::Set { settings } => client.set_policy(change(settings)).await?,
    };
    let text = match invocation.format() {
        Format::Table | Format::Wide => table(policy),
        format @ (Format::Json | Format::Yaml) => output::document(&policy, format)?,
    };
    invocation.write(text.as_bytes())
}

/// The last setting of a name counts.
fn change(settings: &[(PolicyName, bool)]) -> PolicyChange {
    let mut change = PolicyChange::default();
    for (name, allowed) in settings {
        let field = match name {
            PolicyName::ExtraCapabilities => &mut change.extra_capabilities,
            PolicyName::Unconfined => &mut change.unconfined,
            PolicyName::NewPrivileges => &mut change.new_privileges,
        };
        *field = Some(*allowed);
    }
    change
}

fn table(policy: Policy) -> String {
    let mut table = Table::new(vec!["LOOSENS", "ALLOWED"]);
    for (name, allowed) in [
        ("extra_capabilities", policy.extra_capabilities),
        ("unconfined", policy.unconfined),
        ("new_privileges", policy.new_privileges),
    ] {
        let allowed = if allowed { "yes" } else { "no" };
        table.push(vec![name.to_owned(), allowed.to_owned()]);
    }
    table.render()
}
