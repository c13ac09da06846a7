//! A user's text to [`crate::spec`].
