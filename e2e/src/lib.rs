//! What the tests that cross processes stand on.

pub mod image;
