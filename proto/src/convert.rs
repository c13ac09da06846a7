//! Between [`crate::wire`] and the checked types.
