//! The way of spans to a collector, by OTLP over gRPC. They wait in a bounded queue and go in batches from a thread of
//! their own; what does not fit, or what the collector does not take, is lost. Nobody ever waits for it but
//! [`Exporter::close`], and that for a bounded time. Started by `serve` and `run`.

use crate::span::Span;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor};
use rustls::RootCertStore;
use rustls::pki_types::TrustAnchor;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tonic::transport::{Channel, ClientTlsConfig, Uri};

/// For one batch, from the connection to the answer. A collector nearby takes milliseconds.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// For what has not gone yet when the process is to end.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// A collector that is down for a night shall not fill the log.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

/// Where OpenTelemetry's own tools look for the address of a collector.
const STANDARD_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What the environment says to all programs that export; an empty one says nothing.
#[must_use]
pub fn standard_endpoint() -> Option<String> {
    std::env::var(STANDARD_VARIABLE)
        .ok()
        .filter(|text| !text.is_empty())
}

/// Where a collector takes OTLP over gRPC: `http://HOST:PORT`, or `https://HOST:PORT` of one that has a certificate which
/// this machine trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Uri);

/// What is no [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no address of a collector, such as http://127.0.0.1:4317")]
pub struct EndpointError;

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("spans can't be sent to {endpoint}: {source}")]
    Channel {
        endpoint: Endpoint,
        source: tonic::transport::Error,
    },
    #[error("spans can't be sent: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let uri: Uri = text.parse().map_err(|_| EndpointError)?;
        let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
        is_known.then_some(Self(uri)).ok_or(EndpointError)
    }
}

/// Takes spans and sends them, or does nothing at all: [`Exporter::default`]. Clones share.
#[derive(Debug, Clone, Default)]
pub struct Exporter(Option<Arc<BatchSpanProcessor>>);

impl Exporter {
    /// Begins to send to `endpoint` as the instance `instance` of `service`, once there is something to send: nothing
    /// needs to listen there yet. The variables `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_BSP_...` of the OpenTelemetry
    /// specification are heeded. To be called within a runtime.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn start(endpoint: &Endpoint, service: &'static str, instance: String) -> Result<Self, StartError> {
        let exporter = OtlpExporter::builder()
            .with_tonic()
            .with_channel(channel(endpoint).map_err(|source| StartError::Channel {
                endpoint: endpoint.clone(),
                source,
            })?)
            .build()?;
        let mut processor = BatchSpanProcessor::builder(Bounded {
            exporter,
            endpoint: endpoint.clone(),
            runtime: Handle::current(),
            losses: Mutex::default(),
        })
        .build();
        let resource = Resource::builder_empty()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.instance.id", instance))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        processor.set_resource(&resource);
        Ok(Self(Some(Arc::new(processor))))
    }

    /// Whether anybody wants spans: where not, none need be made.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Takes spans to be sent. Never waits: what does not fit into the queue is lost.
    pub fn record(&self, spans: impl IntoIterator<Item = Span>) {
        if let Some(processor) = &self.0 {
            for span in spans {
                processor.on_end(span.into_data());
            }
        }
    }

    /// Sends what has not gone yet, for at most [`CLOSE_TIMEOUT`], and ends.
    pub async fn close(self) {
        let Some(processor) = self.0 else { return };
        let closing = move || processor.shutdown_with_timeout(CLOSE_TIMEOUT);
        match tokio::task::spawn_blocking(closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans are lost"),
            Err(error) => tracing::warn!(%error, "the last spans are lost"),
        }
    }
}

/// Connects when there is something to send, and again after a loss.
fn channel(endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    let mut to = Channel::builder(endpoint.0.clone()).connect_timeout(EXPORT_TIMEOUT);
    if endpoint.0.scheme_str() == Some("https") {
        to = to.tls_config(ClientTlsConfig::new().trust_anchors(trusted()))?;
    }
    Ok(to.connect_lazy())
}

/// The authorities that this machine trusts; those of the file `SSL_CERT_FILE`, where that is set.
fn trusted() -> Vec<TrustAnchor<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::warn!(%error, "authorities that this machine trusts can't be read");
    }
    let mut store = RootCertStore::empty();
    // Those of a form that nobody uses any more are passed over.
    store.add_parsable_certificates(found.certs);
    store.roots
}

/// Bounds each batch in time, and tells of those that are lost, now and then.
#[derive(Debug)]
struct Bounded {
    exporter: OtlpExporter,
    endpoint: Endpoint,
    /// Batches go from a thread that is none of it, and need its timer.
    runtime: Handle,
    losses: Mutex<Losses>,
}

impl SpanExporter for Bounded {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exporting = {
            let _within = self.runtime.enter();
            timeout(EXPORT_TIMEOUT, self.exporter.export(batch))
        };
        let exported = match exporting.await {
            Ok(exported) => exported,
            Err(_) => Err(OTelSdkError::Timeout(EXPORT_TIMEOUT)),
        };
        if let Err(error) = &exported {
            let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(lost) = losses.add(spans, Instant::now()) {
                tracing::warn!(endpoint = %self.endpoint, %error, lost, "the collector does not take spans");
            }
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Spans that were lost since it was told last.
#[derive(Debug, Default)]
struct Losses {
    untold: usize,
    told: Option<Instant>,
}

impl Losses {
    /// How many to tell of, where it is time to.
    fn add(&mut self, spans: usize, now: Instant) -> Option<usize> {
        self.untold += spans;
        let is_recent = |told| now.saturating_duration_since(told) < WARNING_PAUSE;
        if self.told.is_some_and(is_recent) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_is_a_url_that_grpc_can_reach() {
        #[track_caller]
        fn check(text: &str, expected: bool) {
            assert_eq!(text.parse::<Endpoint>().is_ok(), expected, "{text}");
        }
        check("http://127.0.0.1:4317", true);
        check("https://collector.example:4317", true);
        check("http://[::1]:4317/", true);
        check("collector:4317", false);
        check("ftp://collector:4317", false);
        check("/v1/traces", false);
        check("", false);
    }

    #[test]
    fn losses_are_told_at_once_and_then_once_a_minute_together() {
        let begun = Instant::now();
        let mut losses = Losses::default();
        let mut add = |spans, second| losses.add(spans, begun + Duration::from_secs(second));
        assert_eq!(add(3, 0), Some(3));
        assert_eq!(add(4, 5), None);
        assert_eq!(add(5, 59), None);
        assert_eq!(add(6, 60), Some(15));
        assert_eq!(add(1, 61), None);
    }
}
