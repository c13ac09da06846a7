//! Spans that follow one sandbox from its request to Running, over all processes, as OpenTelemetry has them.
//!
//! | module | owns |
//! |---|---|
//! | [`span`] | a span, its place in the trace, and the form that is exported (pure) |
//! | [`attribute`] | the names of what is told of a span |
//! | [`export`] | the way to a collector: batches, in the background, and never in anybody's way |
//!
//! All spans of a sandbox hang on one root, whose id each process knows of itself: see [`Context::root`]. Used by
//! `sbxorch` and `sbxlet`, which say what is recorded.

pub mod attribute;
pub mod export;
pub mod span;

pub use export::{Endpoint, EndpointError, Exporter, StartError};
pub use opentelemetry::trace::SpanKind;
pub use span::{Context, Moment, Span};
