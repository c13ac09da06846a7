//! `sbxctl token`: who may speak to the cluster.

use super::Tally;
use crate::args::{Format, RoleArg, TokenArgs, TokenCommand, TokenCreateArgs};
use crate::client::NewToken;
use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::output;
use proto::wire::Grant;
use std::time::Duration;

/// Of a token that lets a machine in, where nobody says.
const JOIN_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// # Errors
/// [`Failure`]
pub async fn run(args: &TokenArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    match &args.command {
        TokenCommand::Create(args) => create(args, invocation).await,
        TokenCommand::Ls => list(invocation).await,
        TokenCommand::Revoke { ids } => revoke(ids, invocation).await,
    }
}

async fn create(args: &TokenCreateArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("token create")?;
    let grant = match (args.role, args.join_node) {
        (Some(RoleArg::Viewer), _) => Grant::Viewer,
        (Some(RoleArg::Operator), _) => Grant::Operator,
        (Some(RoleArg::Admin), _) => Grant::Admin,
        (None, true) => Grant::JoinNode,
        (None, false) => Grant::JoinReplica,
    };
    let kind = match grant {
        Grant::JoinNode => Some("node"),
        Grant::JoinReplica => Some("replica"),
        Grant::Unspecified | Grant::Viewer | Grant::Operator | Grant::Admin => None,
    };
    let machine = args.machine.as_ref().zip(kind);
    let new = NewToken {
        name: args.name.clone(),
        grant,
        // `node/n` is understood as well as `n`.
        machine: machine.map(|(id, kind)| format!("{kind}/{}", id.trim_start_matches(&format!("{kind}/")))),
        life: args.expires.or(kind.map(|_| JOIN_LIFE)),
    };
    let (token, text) = invocation.client()?.create_token(new).await?;
    invocation.say(text)?;
    let id = token.id;
    match kind {
        None => invocation.note(format_args!(
            "This is shown once: put it into SBX_TOKEN, or into the file that a context names. To take it back: \
             `sbxctl token revoke {id}`"
        )),
        Some("node") => invocation.note(
            "Good for one node: start its agent with `sbxlet --join-token TOKEN --server ...`, or SBX_JOIN_TOKEN",
        ),
        Some(_) => invocation.note(format_args!(
            "Good for one replica: start it with an empty data folder as
  sbxorch --join {servers} --join-token TOKEN --listen ADDRESS:7070 --peer-listen ADDRESS:7071 \\
          --advertise URL --advertise-peer PEER_URL
or with SBX_JOIN_TOKEN; `sbxctl cluster members` shows how it catches up",
            servers = invocation.servers()?.join(",")
        )),
    }
    Ok(())
}

async fn list(invocation: &mut Invocation) -> Result<(), Failure> {
    let tokens = invocation.client()?.tokens().await?;
    let text = match invocation.format() {
        Format::Table | Format::Wide => output::token_table(&tokens, Invocation::now()),
        format @ (Format::Json | Format::Yaml) => output::document(&output::token_list(&tokens), format)?,
    };
    invocation.write(text.as_bytes())
}

async fn revoke(ids: &[String], invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("token revoke")?;
    let client = invocation.client()?;
    let mut tally = Tally::default();
    for id in ids {
        let revoked = client.revoke_token(id).await.map_err(Failure::from);
        if tally.note(revoked, invocation)?.is_some() {
            invocation.say(format_args!("token/{id} revoked"))?;
        }
    }
    tally.finish()
}
