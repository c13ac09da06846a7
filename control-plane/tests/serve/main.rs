//! Replicas as users and agents meet them: real stores, real consensus, real connections, all in this process.

mod agent;
mod backup;
mod cluster;
mod control;
mod disk;
mod figures;
mod identity;
mod join;
mod lifecycle;
mod lost;
mod overload;
mod pages;
mod process;
mod relay;
mod rest;
mod secure;
mod session;
mod several;
mod user;
mod watch;
