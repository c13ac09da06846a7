//! What a running command has at hand: the global options, its two streams, the way to the cluster.
//! Every command gets one; tests make one over buffers.

use crate::args::{Format, Global};
use crate::client::{Client, Endpoint};
use crate::context::{self, Context};
use crate::failure::Failure;
use proto::units::Timestamp;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

pub struct Invocation {
    pub global: Global,
    out: Box<dyn Write>,
    err: Box<dyn Write>,
}

impl Invocation {
    #[must_use]
    pub fn new(global: Global, out: Box<dyn Write>, err: Box<dyn Write>) -> Self {
        Self { global, out, err }
    }

    /// One line of data.
    ///
    /// # Errors
    /// [`Failure::Output`]
    pub fn say(&mut self, line: impl std::fmt::Display) -> Result<(), Failure> {
        writeln!(self.out, "{line}")?;
        Ok(())
    }

    /// Data that carries its own line ends.
    ///
    /// # Errors
    /// [`Failure::Output`]
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes)?;
        Ok(())
    }

    /// # Errors
    /// [`Failure::Output`]
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush()?;
        Ok(())
    }

    /// A remark on stderr. That nobody reads it is no failure.
    pub fn note(&mut self, line: impl std::fmt::Display) {
        writeln!(self.err, "{line}").ok();
    }

    /// The wall clock of this machine: for ages and `--since`, never for decisions of the cluster.
    #[must_use]
    pub fn now() -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The form of the output, where a command knows tables and documents.
    #[must_use]
    pub fn format(&self) -> Format {
        self.global.output.unwrap_or_default()
    }

    /// # Errors
    /// [`Failure::Usage`] where `-o` was given to a command that has no such output.
    pub fn refuse_format(&self, command: &str) -> Result<(), Failure> {
        match self.global.output {
            None => Ok(()),
            Some(_) => Err(Failure::Usage(format!("`sbxctl {command}` has no -o"))),
        }
    }

    /// The replicas of the cluster that was named, as they are asked.
    ///
    /// # Errors
    /// As for [`Invocation::client`].
    pub fn servers(&self) -> Result<Vec<String>, Failure> {
        Ok(context::resolve(&self.global)?.servers)
    }

    /// A client for the cluster that was named, or else for the local one that is up.
    ///
    /// # Errors
    /// [`Failure::NoCluster`] and whatever is wrong with the endpoints or the local cluster's record.
    pub fn client(&self) -> Result<Client, Failure> {
        let Context { servers, access } = context::resolve(&self.global)?;
        let servers = servers
            .iter()
            .map(|text| text.parse::<Endpoint>())
            .collect::<Result<Vec<_>, _>>()?;
        let client = Client::new(servers, access, self.global.request_timeout)?;
        // That nobody reads stderr is no failure.
        Ok(client.with_notice(Box::new(|text| {
            writeln!(std::io::stderr(), "sbxctl: {text}").ok();
        })))
    }
}
