//! The network on the real kernel. Each test has network namespaces of its own: a node's, one that stands for the
//! outside, and the sandboxes'. They go with the test, and nothing of the machine is touched.

mod closed;
mod cost;
mod guarded;
mod lifecycle;
mod open;
mod world;
