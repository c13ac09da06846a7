//! Pushes images to a registry without authentication, over its HTTP interface.

use super::{Blob, Built, Image, StandInError, stand_ins};
use reqwest::{Client, RequestBuilder, Response, StatusCode, header};
use std::time::Duration;

/// Of one request: the registry is near, and a layer is a few megabytes.
const REQUEST: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error(transparent)]
    StandIn(#[from] StandInError),
    #[error("cannot build {repository}: {source}")]
    Build {
        repository: String,
        source: std::io::Error,
    },
    #[error("cannot start the client: {0}")]
    Client(#[source] std::io::Error),
    #[error("cannot {act}: {source}")]
    Request { act: String, source: reqwest::Error },
    #[error("cannot {act}: the registry answers {status}: {body}")]
    Refused {
        act: String,
        status: StatusCode,
        body: String,
    },
    #[error("cannot {act}: the registry names no place for the upload")]
    NoLocation { act: String },
}

/// Pushes all [`stand_ins`] to the registry at `base`, such as `http://127.0.0.1:5000`. Gives the pushed
/// names with their digests.
///
/// # Errors
/// [`PushError`] at the first image that can't be built or pushed.
pub fn push_all(base: &str) -> Result<Vec<(String, String)>, PushError> {
    // On a thread of its own, so that it can be called from within a runtime as well.
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(PushError::Client)?.block_on(async {
            let mut pushed = Vec::new();
            for image in stand_ins()? {
                let built = image.build().map_err(|source| PushError::Build {
                    repository: image.repository.clone(),
                    source,
                })?;
                push(base, &image, &built).await?;
                for tag in &image.tags {
                    pushed.push((
                        format!("{}:{tag}", image.repository),
                        built.manifest.digest.clone(),
                    ));
                }
            }
            Ok(pushed)
        })
    };
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Pushes one image under all its tags.
///
/// # Errors
/// [`PushError`] with what was being done.
pub async fn push(base: &str, image: &Image, built: &Built) -> Result<(), PushError> {
    // An error only says that the process has one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().timeout(REQUEST).no_proxy().build();
    let client = client.map_err(|source| PushError::Request {
        act: "make a client".to_owned(),
        source,
    })?;
    for blob in built.layers.iter().chain([&built.config]) {
        push_blob(&client, base, &image.repository, blob).await?;
    }
    for tag in &image.tags {
        let url = format!("{base}/v2/{}/manifests/{tag}", image.repository);
        let request = client
            .put(url)
            .header(header::CONTENT_TYPE, &built.manifest.media_type)
            .body(built.manifest.bytes.clone());
        send(
            request,
            &format!("push the manifest of {}:{tag}", image.repository),
        )
        .await?;
    }
    Ok(())
}

async fn push_blob(client: &Client, base: &str, repository: &str, blob: &Blob) -> Result<(), PushError> {
    let act = format!("push {} of {repository}", blob.digest);
    let known = client
        .head(format!("{base}/v2/{repository}/blobs/{}", blob.digest))
        .send()
        .await;
    let known = known.map_err(|source| PushError::Request {
        act: act.clone(),
        source,
    })?;
    if known.status() == StatusCode::OK {
        return Ok(());
    }
    let begun = send(
        client.post(format!("{base}/v2/{repository}/blobs/uploads/")),
        &act,
    )
    .await?;
    let location = begun
        .headers()
        .get(header::LOCATION)
        .and_then(|l| l.to_str().ok());
    let location = location.ok_or_else(|| PushError::NoLocation { act: act.clone() })?;
    let place = if location.starts_with('/') {
        format!("{base}{location}")
    } else {
        location.to_owned()
    };
    let separator = if place.contains('?') { '&' } else { '?' };
    let request = client
        .put(format!("{place}{separator}digest={}", blob.digest))
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .body(blob.bytes.clone());
    send(request, &act).await?;
    Ok(())
}

async fn send(request: RequestBuilder, act: &str) -> Result<Response, PushError> {
    let fail = |source| PushError::Request {
        act: act.to_owned(),
        source,
    };
    let response = request.send().await.map_err(fail)?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.text().await.map_err(fail)?;
    Err(PushError::Refused {
        act: act.to_owned(),
        status,
        body,
    })
}
