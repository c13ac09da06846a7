//! `sbxctl port-forward`: ports of this machine that stand for ports of a sandbox, published there or not. Each
//! connection is a conversation of its own, so that one that fails is the only one, and a new leader is found by the
//! next.

mod connection;
mod ports;

pub use ports::PortPair;

use crate::args::PortForwardArgs;
use crate::client::Change;
use crate::failure::Failure;
use crate::invocation::Invocation;
use proto::object::Kind;
use proto::status::Phase;
use proto::wire::{self, object::Object};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Connections that wait to be carried; the kernel keeps more of them waiting.
const WAITING: usize = 16;
/// After a connection could not be accepted, as for want of open files: some of them end meanwhile.
const AFTER_FAULT: Duration = Duration::from_millis(100);

/// Until the sandbox has ended.
///
/// # Errors
/// [`Failure`]
pub async fn run(args: &PortForwardArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("port-forward")?;
    let sandbox = args
        .sandbox
        .rsplit_once('/')
        .map_or(args.sandbox.as_str(), |(_, id)| id);
    let client = Arc::new(invocation.client()?);
    check(&client.get(Kind::Sandbox, sandbox, false).await?, sandbox)?;
    let (accepted, mut connections) = mpsc::channel(WAITING);
    let mut tasks = JoinSet::new();
    for pair in &args.ports {
        let listener = listen(args.address, pair.local).await?;
        let address = listener.local_addr().map_err(|source| Failure::Listen {
            address: SocketAddr::new(args.address, pair.local),
            source,
        })?;
        invocation.say(format_args!("Forwarding from {address} -> {}", pair.remote))?;
        tasks.spawn(accept(listener, pair.remote, accepted.clone()));
    }
    invocation.flush()?;
    let mut changes = client.watch(wire::WatchRequest {
        kind: wire::Kind::Sandbox.into(),
        id: sandbox.to_owned(),
        ..Default::default()
    });
    let mut carried = JoinSet::new();
    loop {
        tokio::select! {
            Some((port, stream)) = connections.recv() => {
                let (client, sandbox) = (client.clone(), sandbox.to_owned());
                carried.spawn(async move { connection::carry(&client, &sandbox, port, stream).await });
            }
            Some(done) = carried.join_next() => {
                if let Ok(Err(fault)) = done {
                    invocation.note(format_args!("sbxctl: {fault}"));
                }
            }
            change = changes.next() => match change? {
                Change::Changed(object) => check(&object, sandbox)?,
                Change::Deleted(_) => {
                    return Err(Failure::NeverComes(format!("sandbox/{sandbox} was deleted")));
                }
                Change::Synced => {}
            },
        }
    }
}

/// Refuses a sandbox that will never listen again.
fn check(object: &wire::Object, sandbox: &str) -> Result<(), Failure> {
    let Some(Object::Sandbox(found)) = &object.object else {
        return Err(proto::convert::ConvertError::Missing { field: "sandbox" }.into());
    };
    let phase = found
        .status
        .as_ref()
        .and_then(|status| Phase::try_from(status.phase()).ok());
    match phase.filter(|phase| phase.has_ended() || *phase == Phase::Deleting) {
        Some(phase) => Err(Failure::NeverComes(format!("sandbox/{sandbox} is {phase}"))),
        None => Ok(()),
    }
}

async fn listen(address: IpAddr, port: u16) -> Result<TcpListener, Failure> {
    let address = SocketAddr::new(address, port);
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| Failure::Listen { address, source })
}

/// Until nobody takes them.
async fn accept(listener: TcpListener, port: u16, accepted: mpsc::Sender<(u16, TcpStream)>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if accepted.send((port, stream)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(AFTER_FAULT).await;
            }
        }
    }
}
