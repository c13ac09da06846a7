//! System calls that neither the standard library nor `nix` offers, each wrapped so that nobody can use it
//! wrongly from safe code. The only place in the agent where `unsafe` is allowed; decides nothing.
#![allow(unsafe_code)]

pub(crate) mod bpf;
pub(crate) mod clone;
pub(crate) mod fork;
pub(crate) mod heap;
pub(crate) mod mount;
pub(crate) mod namespace;
pub(crate) mod pidfd;
pub(crate) mod pioneer;
pub(crate) mod privilege;
pub(crate) mod readable;
pub(crate) mod received;
pub(crate) mod stream;
pub(crate) mod terminal;
pub(crate) mod tree;
pub(crate) mod wait;
