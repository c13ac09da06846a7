//! One replica as a whole: starts everything, serves users and agents on one port, stops in order. Owns the listener
//! and the tasks; decides nothing. Called by `main` and by tests.

use crate::access::{self, Gate};
use crate::admission::Admission;
use crate::api::{Api, grpc, rest};
use crate::config::Config;
use crate::controller::Controller;
use crate::joining::{self, JoiningError};
use crate::listen::{Audience, Incoming};
use crate::metrics::{self, Metrics};
use crate::raft::{Replica, StartError};
use crate::security::{Security, SecurityError};
use crate::session::{Liveness, Sessions};
use axum::middleware::from_fn_with_state;
use futures::FutureExt;
use futures::future::BoxFuture;
use proto::wire;
use spans::Exporter;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinError;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// A peer that answers no ping for [`PING_EVERY`] + [`PING_TIMEOUT`] is gone: a machine that lost its power closes
/// no connection. An agent hears of a frozen leader in the same way.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// What one stream holds while nobody reads it, and a connection: all streams of users that one agent has may be full
/// before the next one has to wait.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Of one connection: an agent's streams of users, and as many again.
const MAX_STREAMS: u32 = 512;
/// Handing the leadership over takes about one election; a replica without a quorum can't.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);
/// For answers that are on their way when everything else has stopped.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a replica can't run, or runs no more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error(transparent)]
    Joining(#[from] JoiningError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Export(#[from] spans::StartError),
    #[error("serving users and agents failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    #[error("a task of this replica failed: {0}")]
    Task(#[from] JoinError),
    #[error("the replica takes no part any more: {0}")]
    Stopped(String),
    #[error("the listener for users and agents has ended")]
    Closed,
}

/// A replica that takes part in its cluster and has its port, but serves nobody yet.
pub struct Serving {
    address: SocketAddr,
    listener: TcpListener,
    replica: Replica,
    api: Api,
    controller: Controller,
    metrics: Metrics,
    gate: Gate,
    security: Security,
    /// The way into the cluster, where this replica is to join one.
    joining: Option<BoxFuture<'static, Result<(), JoiningError>>>,
    /// What goes on beside requests.
    attending: BoxFuture<'static, ()>,
    exporter: Exporter,
    stopping: CancellationToken,
}

/// Binds the port for users and agents, then starts the replica: a port that is taken must not cost an election, nor a
/// token. One that is to join a cluster first becomes somebody.
///
/// # Errors
/// [`ServeError::Listen`], [`ServeError::Joining`], [`ServeError::Security`] and [`ServeError::Start`].
pub async fn start(config: Config) -> Result<Serving, ServeError> {
    let address = config.listen;
    let listen = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let config = joining::enter(config).await?;
    let security = Security::open(&config)?;
    if matches!(security, Security::Insecure) {
        tracing::warn!("plain text, and nobody is asked who he is: --insecure");
    }
    let exporter = match &config.otlp_endpoint {
        Some(endpoint) => Exporter::start(endpoint, "sbxorch", config.id.to_string())?,
        None => Exporter::default(),
    };
    let replica = Replica::start(&config, &security).await?;
    let gate = Gate::new(replica.clone(), security.clone());
    let joining = config.join.clone().map(|join| {
        let request = wire::AddReplicaRequest {
            id: config.id,
            peer_endpoint: config.advertise_peer.clone(),
            endpoint: config.advertise.clone(),
            learner: false,
        };
        joining::take_part(replica.clone(), join, request, security.dialer()).boxed()
    });
    let liveness = Liveness::default();
    let stopping = CancellationToken::new();
    let sessions = Sessions::new(
        replica.clone(),
        liveness.clone(),
        config.timings,
        exporter.clone(),
        stopping.clone(),
    );
    let controller = Controller::new(
        replica.clone(),
        liveness.clone(),
        config.timings,
        config.scheduling,
        exporter.clone(),
    );
    let api = Api::new(
        replica.clone(),
        liveness,
        sessions,
        Admission::new(config.limits),
        security.dialer(),
        exporter.clone(),
        stopping.clone(),
    );
    Ok(Serving {
        address,
        listener,
        metrics: Metrics::new(config.data_dir, &replica, &api, controller.instruments()),
        controller,
        api,
        attending: gate.attend()?.boxed(),
        exporter,
        joining,
        gate,
        security,
        replica,
        stopping,
    })
}

impl Serving {
    /// Where users and agents are served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`; then hands over the leadership, ends the streams, and answers what was asked before.
    ///
    /// # Errors
    /// [`ServeError`] where the replica ends without being asked to.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self {
            listener,
            replica,
            api,
            controller,
            metrics,
            gate,
            security,
            attending,
            exporter,
            joining,
            stopping,
            ..
        } = self;
        let routes = Routes::from(rest::router(&api, security.dialer(), &metrics));
        let health = grpc::Health::default();
        // Nothing is served that does not pass the gate; what it turns away is counted as well.
        let routes = grpc::add_to(routes, &api, &gate, &health)
            .into_axum_router()
            .layer(from_fn_with_state(gate, access::admit))
            .layer(from_fn_with_state(metrics.requests().clone(), metrics::observe));
        tokio::spawn(health.follow(replica.clone(), stopping.clone()));
        let incoming = Incoming::start(listener, security, Audience::Users);
        let drained = stopping.clone();
        let server = tonic::transport::Server::builder()
            .accept_http1(true)
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .add_routes(routes.into())
            .serve_with_incoming_shutdown(incoming, async move { drained.cancelled().await });
        let mut server = tokio::spawn(server);
        let leading = tokio::spawn(controller.run());
        let attending = tokio::spawn(attending);
        let dispatching = tokio::spawn(api.sessions().clone().dispatch());

        let joining = async {
            match joining {
                Some(joining) => match joining.await {
                    // A member like any other from here on.
                    Ok(()) => std::future::pending().await,
                    Err(error) => error,
                },
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            () = stop => Ok(()),
            error = joining => Err(error.into()),
            () = replica.dismissed() => {
                tracing::info!("this replica was removed from its cluster, and stops for good");
                Ok(())
            }
            reason = replica.stopped() => Err(ServeError::Stopped(reason)),
            ended = &mut server => match ended {
                Ok(Ok(())) => Err(ServeError::Closed),
                Ok(Err(error)) => Err(error.into()),
                Err(error) => Err(error.into()),
            },
        };
        // Others lead before the agents are sent away, so that they find them at once.
        if timeout(HANDOVER_TIMEOUT, replica.shutdown()).await.is_err() {
            tracing::warn!("stopping without having handed over the leadership");
        }
        stopping.cancel();
        dispatching.abort();
        leading.abort();
        attending.abort();
        if !server.is_finished() && timeout(DRAIN_TIMEOUT, &mut server).await.is_err() {
            tracing::debug!("connections are left that others hold open");
            server.abort();
        }
        exporter.close().await;
        ended
    }
}
