//! Speaks to registries: asks each place that may have an image in turn, and again after a while where the
//! fault may pass. Trusts nothing that it gets: every body is bounded and must have the digest it was asked for.
//!
//! Keeps nothing on disk but the file that it is told to fill. Called by [`super::pull`].

use super::attempts::Attempts;
use super::connection::{Connection, Request, bounded};
use super::digest::Digest;
use super::download::Download;
use super::error::{EndpointFailure, ImageError};
use super::fault::Fault;
use super::manifest::{Descriptor, MAX_DOCUMENT};
use super::progress::Meter;
use super::reference::{Endpoint, RegistryConfig};
use super::transport::Transport;
use oci_client::secrets::RegistryAuth;
use proto::image::ImageName;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Manifests and indexes of OCI, and Docker's own from before.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";
/// Places that stay connected; nodes use a handful of registries.
const MAX_CONNECTIONS: usize = 32;

/// Whose connection it is: another password is another one.
type Site = (String, Transport, RegistryAuth);

pub(super) struct Registry {
    config: RegistryConfig,
    /// Used last at the end.
    connections: Mutex<Vec<(Site, Arc<Connection>)>>,
}

impl Registry {
    pub(super) fn new(config: RegistryConfig) -> Self {
        Self {
            config,
            connections: Mutex::default(),
        }
    }

    /// # Errors
    /// [`ImageError::Credentials`].
    pub(super) fn endpoints(&self, name: &ImageName) -> Result<Vec<Endpoint>, ImageError> {
        self.config.endpoints(name)
    }

    /// The manifest or index that `name` leads to.
    ///
    /// # Errors
    /// What each place answered.
    pub(super) async fn manifest(
        &self,
        name: &ImageName,
        endpoints: &[Endpoint],
    ) -> Result<Vec<u8>, Vec<EndpointFailure>> {
        let mut attempts = Attempts::new(endpoints);
        while let Some(endpoint) = attempts.next().await {
            match self.manifest_from(endpoint, name).await {
                Ok(bytes) => return Ok(bytes),
                Err(fault) => attempts.failed(fault),
            }
        }
        Err(attempts.failures())
    }

    /// Fills the file `out` with the blob `wanted` of the image `name`, and tells `meter` how far it is.
    ///
    /// # Errors
    /// What each place answered.
    pub(super) async fn blob(
        &self,
        name: &ImageName,
        endpoints: &[Endpoint],
        wanted: &Descriptor,
        out: &Path,
        meter: &Meter,
    ) -> Result<(), Vec<EndpointFailure>> {
        let mut attempts = Attempts::new(endpoints);
        let mut download = None;
        while let Some(endpoint) = attempts.next().await {
            let before = download.as_ref().map_or(0, Download::received);
            let fetched = async {
                let connection = self.connection(endpoint)?;
                let download = match &mut download {
                    Some(under_way) => under_way,
                    none => none.insert(Download::new(wanted, out, meter).await?),
                };
                let asked = endpoint.reference(name);
                download.fetch(&connection, endpoint, &asked).await
            };
            match fetched.await {
                Ok(()) => return Ok(()),
                Err(fault) => {
                    tracing::debug!(blob = %wanted.digest, endpoint = endpoint.url, %fault, "not got");
                    attempts.failed(fault);
                }
            }
            if download.as_ref().map_or(0, Download::received) > before {
                attempts.progressed();
            }
        }
        Err(attempts.failures())
    }

    async fn manifest_from(&self, endpoint: &Endpoint, name: &ImageName) -> Result<Vec<u8>, Fault> {
        let connection = self.connection(endpoint)?;
        let asked = endpoint.reference(name);
        let leaf = asked.digest().or(asked.tag()).unwrap_or_default();
        let request = Request {
            path: &format!("manifests/{leaf}"),
            accept: Some(ACCEPTED),
            from: 0,
        };
        let mut answer = connection.get(endpoint, &asked, request).await?;
        let bytes = bounded(&mut answer, MAX_DOCUMENT).await?;
        let bytes = bytes.ok_or(Fault::LongManifest(MAX_DOCUMENT))?;
        match &name.digest {
            Some(expected) if Digest::of(&bytes).to_string() != *expected => Err(Fault::Digest {
                expected: expected.clone(),
            }),
            Some(_) | None => Ok(bytes),
        }
    }

    #[cfg(test)]
    pub(super) fn spoil_grants(&self) {
        for (_, connection) in self.connections.lock().expect("not poisoned").iter() {
            connection.spoil_grants();
        }
    }

    fn connection(&self, endpoint: &Endpoint) -> Result<Arc<Connection>, Fault> {
        let site = (
            endpoint.url.clone(),
            endpoint.transport.clone(),
            endpoint.auth.clone(),
        );
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match connections.iter().position(|(known, _)| *known == site) {
            Some(i) => connections.remove(i),
            None => (site, Arc::new(Connection::new(&endpoint.transport)?)),
        };
        if connections.len() >= MAX_CONNECTIONS {
            connections.remove(0);
        }
        let connection = found.1.clone();
        connections.push(found);
        Ok(connection)
    }
}
