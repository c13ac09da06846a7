//! `sbxctl cp`: files into a sandbox and out of it, as a tar stream over a conversation with its node.
//!
//! What comes out of a container is a stranger's: it is unpacked without following or making a link that leads out of
//! the target, and without its owners, devices and set-user-id bits.

mod pipe;
mod place;
mod progress;

use crate::args::CpArgs;
use crate::client::{Client, Conversation};
use crate::failure::Failure;
use crate::invocation::Invocation;
use place::{Place, split};
use progress::Progress;
use proto::relay::{Input, MAX_CHUNK, Output};
use proto::wire::copy_request::Direction;
use proto::wire::{self, relay_request::What};
use std::io::{Read, Write};
use std::path::Path;
use tree::{Folder, Policy, Target, TreeError, Unpacked};

/// Of what comes out of a sandbox.
const POLICY: Policy = Policy {
    owner: None,
    mode: 0o777,
    links: false,
};

/// What is copied on the sandbox's side.
struct Remote {
    sandbox: String,
    container: Option<String>,
    path: String,
}

/// # Errors
/// [`Failure`]
pub async fn run(args: &CpArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("cp")?;
    let parse = |text: &str| Place::parse(text).map_err(Failure::Usage);
    let remote = |sandbox, container: Option<String>, path| Remote {
        sandbox,
        container: container.or_else(|| args.container.clone()),
        path,
    };
    match (parse(&args.from)?, parse(&args.to)?) {
        (
            from @ (Place::Local(_) | Place::Stream),
            Place::Remote {
                sandbox,
                container,
                path,
            },
        ) => copy_in(from, remote(sandbox, container, path), invocation).await,
        (
            Place::Remote {
                sandbox,
                container,
                path,
            },
            to @ (Place::Local(_) | Place::Stream),
        ) => copy_out(remote(sandbox, container, path), to, invocation).await,
        (Place::Remote { .. }, Place::Remote { .. }) => Err(Failure::Usage(
            "one of the two must be on this machine; between sandboxes, `sbxctl cp A:/x - | sbxctl cp - B:/y`"
                .to_owned(),
        )),
        (Place::Local(_) | Place::Stream, Place::Local(_) | Place::Stream) => Err(Failure::Usage(
            "neither of the two is in a sandbox: write SANDBOX:PATH".to_owned(),
        )),
    }
}

async fn begin(client: &Client, remote: &Remote, direction: Direction) -> Result<Conversation, Failure> {
    let act = match direction {
        Direction::In => format!("copy to sandbox/{}", remote.sandbox),
        Direction::Out | Direction::Unspecified => format!("copy from sandbox/{}", remote.sandbox),
    };
    let request = wire::RelayRequest {
        sandbox_id: remote.sandbox.clone(),
        container: remote.container.clone().unwrap_or_default(),
        what: Some(What::Copy(wire::CopyRequest {
            direction: direction.into(),
            path: remote.path.clone(),
        })),
    };
    Ok(client.converse(&act, request).await?)
}

async fn copy_in(from: Place, remote: Remote, invocation: &mut Invocation) -> Result<(), Failure> {
    // What is not there is told before anything is asked for.
    let source = match &from {
        Place::Local(path) => Some(open(path)?),
        Place::Stream | Place::Remote { .. } => None,
    };
    let client = invocation.client()?;
    let Conversation { says, mut hears } = begin(&client, &remote, Direction::In).await?;
    let (mut writer, mut chunks) = pipe::from_thread(MAX_CHUNK);
    let packing = tokio::task::spawn_blocking(move || {
        let left_out = match source {
            Some((folder, name)) => tree::pack(&folder, &name, Path::new(&name), &mut writer)?.left_out,
            None => {
                relay_stdin(&mut writer)?;
                0
            }
        };
        writer.flush().map_err(TreeError::Send)?;
        Ok::<u64, TreeError>(left_out)
    });
    let said = async {
        let mut progress = Progress::new();
        while let Some(chunk) = chunks.recv().await {
            progress.add(chunk.len());
            says.say(Input::Data(chunk)).await;
        }
        // Closed as well where packing has failed: then there is no end, and the copy is given up.
        let left_out = packing.await.map_err(|_| Failure::Incomplete)??;
        says.say(Input::eof()).await;
        Ok::<u64, Failure>(left_out)
    };
    let heard = async {
        loop {
            match hears.next().await? {
                Some(Output::Eof(_)) => return Ok::<(), Failure>(()),
                Some(Output::Data(_) | Output::Stderr(_) | Output::Exit(_)) => {}
                None => return Err(Failure::Incomplete),
            }
        }
    };
    let (left_out, ()) = tokio::try_join!(said, heard)?;
    tell_left_out(left_out, "devices, pipes or sockets", invocation);
    Ok(())
}

/// The folder that `path` is in, and its name there.
fn open(path: &Path) -> Result<(Folder, std::ffi::OsString), Failure> {
    let (folder, name) = split(path);
    let failed = |source: nix::errno::Errno| Failure::ReadFile {
        path: path.to_owned(),
        source: source.into(),
    };
    let folder = Folder::open(folder).map_err(failed)?;
    match folder.stat(&name).map_err(failed)? {
        Some(_) => Ok((folder, name)),
        None => Err(failed(nix::errno::Errno::ENOENT)),
    }
}

fn relay_stdin(writer: &mut impl Write) -> Result<(), TreeError> {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; MAX_CHUNK];
    loop {
        match stdin.read(&mut buffer).map_err(TreeError::Receive)? {
            0 => return Ok(()),
            length => writer.write_all(&buffer[..length]).map_err(TreeError::Send)?,
        }
    }
}

async fn copy_out(remote: Remote, to: Place, invocation: &mut Invocation) -> Result<(), Failure> {
    let target = match &to {
        Place::Local(path) => Some(Target::at(path)?),
        Place::Stream | Place::Remote { .. } => None,
    };
    let client = invocation.client()?;
    let Conversation { says, mut hears } = begin(&client, &remote, Direction::Out).await?;
    let (chunks, mut reader) = pipe::to_thread();
    let unpacking = tokio::task::spawn_blocking(move || match target {
        Some(target) => tree::unpack(reader, target, POLICY),
        None => {
            std::io::copy(&mut reader, &mut std::io::stdout().lock()).map_err(TreeError::Send)?;
            Ok(Unpacked::default())
        }
    });
    let mut progress = Progress::new();
    let heard = loop {
        let chunk = match hears.next().await {
            Ok(Some(Output::Data(data))) => data,
            Ok(Some(Output::Eof(_))) => Vec::new(),
            Ok(Some(Output::Stderr(_) | Output::Exit(_))) => continue,
            Ok(None) => break Err(Failure::Incomplete),
            Err(error) => break Err(error.into()),
        };
        let is_last = chunk.is_empty();
        progress.add(chunk.len());
        // Where nobody takes it, unpacking has failed, and says why.
        if chunks.send(chunk).await.is_err() || is_last {
            break Ok(());
        }
    };
    drop((chunks, progress, says));
    let unpacked = unpacking.await.map_err(|_| Failure::Incomplete)?;
    // What the sandbox's node says comes first: a broken stream is only its consequence.
    heard?;
    let what = "devices, pipes, sockets, or links that lead out of the copy";
    tell_left_out(unpacked?.left_out, what, invocation);
    Ok(())
}

fn tell_left_out(count: u64, what: &str, invocation: &mut Invocation) {
    if count > 0 {
        invocation.note(format_args!("left out: {count} {what}"));
    }
}
