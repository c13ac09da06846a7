//! Who is who in a cluster: certificates that name replicas and nodes, tokens that name people, and the TLS made of
//! them. Shared by the three programs.
//!
//! | module | owns |
//! |---|---|
//! | [`principal`] | what a certificate says: this is replica 1, this is node n |
//! | [`authority`] | the cluster's certificate authority: makes itself, issues and signs |
//! | [`folder`] | the names of the files, how they are read, and written so that only their owner reads them |
//! | [`credentials`] | what a program shows and whom it trusts; follows its files, so that they can be exchanged |
//! | [`dial`] | connections to replicas, encrypted or, where plainly asked for, not |
//! | [`pin`] | trust in an authority of which only the fingerprint is known, for joining |
//! | [`join`] | a machine's way into the cluster, with a token |
//! | [`token`] | secrets of people and of machines that join; hashes of them |
//!
//! Decides nothing about what anybody may do, and keeps no list of anybody: both are the control plane's.

pub mod authority;
pub mod credentials;
pub mod dial;
pub mod folder;
pub mod join;
pub mod pin;
pub mod principal;
pub mod token;
