//! `sbxctl cluster`: what concerns the replicas that make up the control plane.

use crate::client::Endpoint;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Debug, Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    pub command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Make the identity of a new cluster: its certificate authority, certificates and the first token.
    Init(ClusterInitArgs),
    /// Show the replicas: who leads, who votes, how far each has the log, who can be reached.
    Members {
        /// As the replica that is asked knows it; works without a quorum.
        #[arg(long)]
        stale: bool,
    },
    /// Take a running, empty replica in.
    Add(ClusterAddArgs),
    /// Take replicas out, for good: their numbers are never used again.
    Remove(ClusterRemoveArgs),
    /// Give learners a vote, once they have caught up.
    Promote {
        /// Numbers of replicas.
        #[arg(value_name = "N", required = true)]
        ids: Vec<u64>,
    },
    /// Write all that the cluster knows into a file, of which `sbxorch restore` makes a new cluster.
    Backup(ClusterBackupArgs),
    /// Compare what the replicas hold, all of it, each at the same entry of the log. Fails where one differs, or does not
    /// answer.
    Check,
    /// Let another replica lead, as before the leader's machine is switched off.
    TransferLeader {
        /// The replica that shall lead; by default the one that is best prepared.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        to: Option<u64>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
A replica that is started with `sbxorch --join URL --join-token TOKEN` takes itself in; `sbxctl token create
--join-replica` makes the token. This command is for one that has its certificate already.

It is made a learner, is sent all there is, and has a vote once it has caught up. Asked again, it goes on where it is.

Examples:
  sbxctl cluster add 4=https://10.0.0.4:7071=https://10.0.0.4:7070
  sbxctl cluster add 5=https://10.0.0.5:7071=https://10.0.0.5:7070 --learner   a copy without a vote")]
pub struct ClusterAddArgs {
    /// Its number, its address for replicas, its address for users.
    #[arg(value_name = "N=PEER_URL=URL")]
    pub replica: ReplicaAddress,
    /// It gets no vote.
    #[arg(long)]
    pub learner: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A replica that runs stops when it is removed. A leader hands over before it goes. The last voter stays, and so does
one without which no quorum could be reached.

Examples:
  sbxctl cluster remove 2                        its machine is gone: no need to reach it
  sbxctl cluster remove 4 5                      one after the other")]
pub struct ClusterRemoveArgs {
    /// Numbers of replicas.
    #[arg(value_name = "N", required = true)]
    pub ids: Vec<u64>,
    /// Also where those that are left can't reach a quorum: nothing can be written then until they can.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The file holds what was acknowledged before the command began, with checksums. It is written beside its place and takes
its name when it is whole and on stable storage. Nobody else can read it: it holds what sandboxes were given, and hashes
of tokens. Images, logs and the files of sandboxes are not part of it, nor the authority's key.

Examples:
  sbxctl cluster backup cluster-$(date +%F).backup
  sbxctl cluster backup last-resort.backup --stale       from one replica, where no quorum is left")]
pub struct ClusterBackupArgs {
    /// The file to write; one that is there is replaced.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What the replica that is asked has applied, which may lag; works without a quorum.
    #[arg(long)]
    pub stale: bool,
}

/// A replica as it is named on command lines: `N=PEER_URL=URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaAddress {
    pub id: u64,
    pub peer: Endpoint,
    pub server: Endpoint,
}

impl FromStr for ReplicaAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('=').collect();
        let [id, peer, server] = parts[..] else {
            return Err(REPLICA_FORM.to_owned());
        };
        let endpoint = |text: &str| text.parse::<Endpoint>().map_err(|error| error.to_string());
        Ok(Self {
            id: id
                .parse()
                .ok()
                .filter(|id| *id > 0)
                .ok_or_else(|| REPLICA_FORM.to_owned())?,
            peer: endpoint(peer)?,
            server: endpoint(server)?,
        })
    }
}

const REPLICA_FORM: &str = "write N=PEER_URL=URL, such as 4=https://10.0.0.4:7071=https://10.0.0.4:7070";

#[derive(Debug, Args)]
#[command(after_help = "\
Works without a cluster, on any machine. Writes a folder of files that nobody else can read, and says where they go.

Examples:
  sbxctl cluster init --replica 1=https://10.0.0.1:7071=https://10.0.0.1:7070 \\
                      --replica 2=https://10.0.0.2:7071=https://10.0.0.2:7070 \\
                      --replica 3=https://10.0.0.3:7071=https://10.0.0.3:7070 --agent node-a --agent node-b
Agents can also join later, with `sbxctl token create --join-node`.")]
pub struct ClusterInitArgs {
    /// A replica, as for `sbxorch --initial-cluster`: its number, its address for replicas, its address for users.
    #[arg(long, value_name = "N=PEER_URL=URL", required = true, value_delimiter = ',')]
    pub replica: Vec<String>,
    /// A further name or address of a replica, or of all: 1:replica-1.example.org.
    #[arg(long, value_name = "[N:]HOST")]
    pub host: Vec<String>,
    /// A node whose agent gets a certificate; by default none, and agents join with tokens.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub agent: Vec<String>,
    /// The folder to write.
    #[arg(long, value_name = "FOLDER", default_value = "sandboxd-cluster")]
    pub out: PathBuf,
}
