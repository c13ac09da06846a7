//! A receiver of spans as a collector is one: OTLP over gRPC on a socket of its own, on all addresses of the machine.

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use std::net::TcpListener;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// Ends when dropped.
pub struct Collector {
    port: u16,
    incoming: mpsc::Receiver<Received>,
    received: Vec<Received>,
    runtime: Option<Runtime>,
}

/// A span, and who has sent it.
#[derive(Debug, Clone)]
pub struct Received {
    pub service: String,
    pub instance: String,
    pub span: Span,
}

impl Received {
    /// The trace's id as logs have it.
    #[must_use]
    pub fn trace_id(&self) -> String {
        hex::encode(&self.span.trace_id)
    }

    /// The text of an attribute; empty where it is none, or no text.
    #[must_use]
    pub fn attribute(&self, key: &str) -> &str {
        text(&self.span.attributes, key)
    }
}

impl Collector {
    /// Serves plain text.
    ///
    /// # Panics
    /// Where it can't listen.
    #[must_use]
    pub fn start() -> Self {
        Self::serve(Server::builder())
    }

    /// Serves TLS with this certificate and its key, both PEM.
    ///
    /// # Panics
    /// Where it can't listen, or they can't be used.
    #[must_use]
    pub fn with_tls(certificate: &str, key: &str) -> Self {
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
        Self::serve(
            Server::builder()
                .tls_config(tls)
                .expect("a certificate with its key"),
        )
    }

    fn serve(mut server: Server) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        listener
            .set_nonblocking(true)
            .expect("a listener that does not block");
        let (tell, incoming) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener of tokio");
            server
                .add_service(TraceServiceServer::new(Receiver(tell)))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
        });
        Self {
            port,
            incoming,
            received: Vec::new(),
            runtime: Some(runtime),
        }
    }

    /// On all addresses of the machine.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Everything that has come, once it is `enough`.
    ///
    /// # Panics
    /// With what has come, where that is not so in time.
    #[track_caller]
    pub fn wait_for(&mut self, timeout: Duration, enough: impl Fn(&[Received]) -> bool) -> &[Received] {
        let end = Instant::now() + timeout;
        while !enough(&self.received) {
            match self
                .incoming
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(received) => self.received.push(received),
                Err(RecvTimeoutError::Timeout) => panic!("not enough has come: {:#?}", self.received),
                Err(RecvTimeoutError::Disconnected) => panic!("the collector has ended"),
            }
        }
        &self.received
    }
}

impl Drop for Collector {
    /// Also in an asynchronous test, which may not wait for it.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Receiver(mpsc::Sender<Received>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_resource in request.into_inner().resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            for span in spans {
                let received = Received {
                    service: text(&resource.attributes, "service.name").to_owned(),
                    instance: text(&resource.attributes, "service.instance.id").to_owned(),
                    span,
                };
                // The test may have seen enough.
                self.0.send(received).ok();
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text,
        _ => "",
    }
}
