//! The images of a node for other programs on it: whoever has the folder of images open serves it at a socket in that
//! folder, the agent for as long as it runs. So `sbxlet image` works beside an agent and knows what is in use, and
//! without one, when it opens the folder itself.
//!
//! Only the user who serves is answered. Called by the agent and by `sbxlet image`, through [`super::ImageStore`].

use super::{ArchiveFormat, Ask, Image, ImageError, ImageStore, Listed, Progress, Pull, Removed};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use proto::wire;
use proto::wire::node_images_client::NodeImagesClient;
use proto::wire::node_images_server::{NodeImages, NodeImagesServer};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// Of the socket, in the folder of images.
const NAME: &str = "socket";
/// Who has locked the folder serves it at once, except right after its own start.
const CONNECT_TRIES: u32 = 20;
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
/// For requests under way when serving ends: a list is done by then, and a pull can be asked for again.
const GRACE: Duration = Duration::from_secs(1);

/// Why the images can't be reached at their socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot serve the images at {path}: {source}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("cannot serve the images: {0}")]
    Serve(#[source] tonic::transport::Error),
    #[error("the images at {path} are in use by a program that does not answer: {source}")]
    Connect {
        path: PathBuf,
        source: tonic::transport::Error,
    },
}

/// A socket that others can connect to.
pub struct Listening {
    listener: UnixListener,
    store: ImageStore,
}

impl ImageStore {
    /// Makes the socket, so that others can connect from here on.
    ///
    /// # Errors
    /// [`SocketError::Listen`].
    pub fn listen(&self) -> Result<Listening, SocketError> {
        let folder = self.inner.store.root();
        let listen = || {
            let (_open, short) = short(folder)?;
            // What an earlier process has left: the folder is ours alone.
            match std::fs::remove_file(folder.join(NAME)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                Ok(()) | Err(_) => UnixListener::bind(short),
            }
        };
        let listener = listen().map_err(|source| SocketError::Listen {
            path: folder.join(NAME),
            source,
        })?;
        Ok(Listening {
            listener,
            store: self.clone(),
        })
    }
}

impl Listening {
    /// Answers until `stop`; what is under way then has [`GRACE`].
    ///
    /// # Errors
    /// [`SocketError::Serve`].
    pub async fn serve(self, stop: CancellationToken) -> Result<(), SocketError> {
        let service = NodeImagesServer::new(Service(self.store));
        let connections = UnixListenerStream::new(self.listener).filter(|connection| {
            let is_own = connection.as_ref().map_or(true, is_own_user);
            std::future::ready(is_own)
        });
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
        let given_up = async {
            stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            served = serving => served.map_err(SocketError::Serve),
            () = given_up => Ok(()),
        }
    }
}

/// Connects to who has the folder of images `root` open.
///
/// # Errors
/// [`SocketError::Connect`].
pub async fn connect(root: &Path) -> Result<NodeImagesClient<Channel>, SocketError> {
    let path = root.join(NAME);
    let fail = |source| SocketError::Listen {
        path: path.clone(),
        source,
    };
    let (_open, short) = short(root).map_err(fail)?;
    let endpoint = Endpoint::from_shared(format!("unix://{}", short.display()));
    let connect = |source| SocketError::Connect {
        path: path.clone(),
        source,
    };
    let endpoint = endpoint.map_err(connect)?;
    for _ in 1..CONNECT_TRIES {
        if let Ok(channel) = endpoint.connect().await {
            return Ok(NodeImagesClient::new(channel));
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
    let channel = endpoint.connect().await.map_err(connect)?;
    Ok(NodeImagesClient::new(channel))
}

/// The socket's path through the descriptor of its folder, for as long as that is open: an address ends at 108 bytes,
/// and a path does not.
fn short(folder: &Path) -> io::Result<(File, PathBuf)> {
    let open = File::open(folder)?;
    let path = Path::new("/proc/self/fd")
        .join(open.as_raw_fd().to_string())
        .join(NAME);
    Ok((open, path))
}

fn is_own_user(connection: &UnixStream) -> bool {
    let peer = connection.peer_cred();
    peer.is_ok_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw())
}

struct Service(ImageStore);

#[tonic::async_trait]
impl NodeImages for Service {
    async fn list_images(
        &self,
        _: Request<wire::ListImagesRequest>,
    ) -> Result<Response<wire::ListImagesResponse>, Status> {
        let images = self.0.list().await.map_err(status)?;
        let images = images.iter().map(listed).collect();
        Ok(Response::new(wire::ListImagesResponse { images }))
    }

    type PullImageStream = BoxStream<'static, Result<wire::PullImageProgress, Status>>;

    async fn pull_image(
        &self,
        request: Request<wire::PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        let wire::PullImageRequest { image, always } = request.into_inner();
        let ask = if always { Ask::Always } else { Ask::IfMissing };
        let pull = self.0.fetch(&image, ask).map_err(status)?;
        Ok(Response::new(steps(pull).boxed()))
    }

    async fn import_images(
        &self,
        request: Request<wire::ImportImagesRequest>,
    ) -> Result<Response<wire::ImportImagesResponse>, Status> {
        let path = absolute(request.into_inner().path)?;
        let references = self.0.import(&path).await.map_err(status)?;
        Ok(Response::new(wire::ImportImagesResponse { references }))
    }

    async fn export_images(
        &self,
        request: Request<wire::ExportImagesRequest>,
    ) -> Result<Response<wire::ExportImagesResponse>, Status> {
        let request = request.into_inner();
        let format = match request.format() {
            wire::ArchiveFormat::Oci => ArchiveFormat::Oci,
            wire::ArchiveFormat::Docker => ArchiveFormat::Docker,
        };
        let path = absolute(request.path)?;
        let exported = self.0.export(&request.images, format, &path).await;
        let size_bytes = exported.map_err(status)?;
        Ok(Response::new(wire::ExportImagesResponse { size_bytes }))
    }

    async fn remove_images(
        &self,
        request: Request<wire::RemoveImagesRequest>,
    ) -> Result<Response<wire::RemovedImages>, Status> {
        let images = request.into_inner().images;
        removed(self.0.remove(&images).await)
    }

    async fn prune_images(
        &self,
        request: Request<wire::PruneImagesRequest>,
    ) -> Result<Response<wire::RemovedImages>, Status> {
        let unused_for = Duration::from_millis(request.into_inner().unused_for_ms);
        removed(self.0.prune(unused_for).await)
    }
}

/// How far the pull is, again and again, and at last the image or why there is none.
fn steps(pull: Pull) -> impl Stream<Item = Result<wire::PullImageProgress, Status>> + Send {
    stream::unfold(Some((pull.progress(), pull)), |under_way| async {
        let (mut progress, mut pull) = under_way?;
        let done = tokio::select! {
            biased;
            done = &mut pull => done,
            Ok(()) = progress.changed() => {
                let now = *progress.borrow_and_update();
                return Some((Ok(step(now, None)), Some((progress, pull))));
            }
        };
        let last = *progress.borrow();
        let last = done.map(|image| step(last, Some(&image))).map_err(status);
        Some((last, None))
    })
}

fn step(now: Progress, image: Option<&Arc<Image>>) -> wire::PullImageProgress {
    wire::PullImageProgress {
        layers_done: now.layers_done,
        layers: now.layers,
        bytes_done: now.bytes_done,
        bytes: now.bytes,
        image: image.map(|image| wire::NodeImage {
            reference: image.reference.clone(),
            digest: image.digest.clone(),
            layers: image.layers.len() as u32,
            used_at_ms: milliseconds(SystemTime::now()),
            ..wire::NodeImage::default()
        }),
    }
}

fn listed(image: &Listed) -> wire::NodeImage {
    wire::NodeImage {
        reference: image.reference.clone(),
        digest: image.digest.clone(),
        layers: image.layers as u32,
        size_bytes: image.bytes,
        used_at_ms: milliseconds(image.used),
        in_use: image.in_use,
    }
}

fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn removed(removed: Result<Removed, ImageError>) -> Result<Response<wire::RemovedImages>, Status> {
    let Removed { references, bytes } = removed.map_err(status)?;
    Ok(Response::new(wire::RemovedImages {
        references,
        freed_bytes: bytes,
    }))
}

/// The folder that this process works in is not the caller's.
fn absolute(path: String) -> Result<PathBuf, Status> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Status::invalid_argument("the archive has no absolute path"))
    }
}

fn status(error: ImageError) -> Status {
    let text = error.to_string();
    match error {
        ImageError::Reference(_) | ImageError::Mirror { .. } | ImageError::Transport { .. } => {
            Status::invalid_argument(text)
        }
        ImageError::NotHere { .. } => Status::not_found(text),
        ImageError::Used { .. } | ImageError::NoTag { .. } | ImageError::InUse { .. } => {
            Status::failed_precondition(text)
        }
        ImageError::Timeout { .. } => Status::deadline_exceeded(text),
        ImageError::Pull { .. } => Status::unavailable(text),
        ImageError::Credentials { .. }
        | ImageError::Manifest { .. }
        | ImageError::Layer { .. }
        | ImageError::DiffId { .. }
        | ImageError::Archive { .. }
        | ImageError::Import { .. }
        | ImageError::Export { .. }
        | ImageError::Store { .. }
        | ImageError::Panic { .. } => Status::internal(text),
    }
}
