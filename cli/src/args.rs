//! The command line as types, and its help. Parses only: what a value means is decided where it is used.

mod cluster;

pub use cluster::*;

use crate::commands::port_forward::PortPair;
use crate::commands::target::{GetKind, Target};
use crate::commands::wait::Goal;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  sbxctl dev up                                  start a local cluster to try things on
  sbxctl apply -f examples/shared-volume.yaml    create or change what the file describes
  sbxctl get sandboxes -l team=a -o wide         list, with more columns
  sbxctl logs -f shared-volume                   follow the output of its containers
  sbxctl cp site web:/www                        copy files into a sandbox, or out of it
  sbxctl port-forward web 8080:80                reach a port of it, published or not
  sbxctl exec -it web -- sh                      a shell in its container
  sbxctl wait sandbox/web --for phase=Running    block until it runs, fail if it never can
  sbxctl delete sandbox web --wait               end it and wait until nothing is left

Without --server or --context, the local cluster of `sbxctl dev up` is used if one is up, and else the one of
~/.config/sandboxd/context.toml.

Exit codes:
  0  done
  1  refused, or failed
  2  the command line is wrong, or no cluster is known
  3  a manifest is wrong; nothing was sent
  4  time ran out
exec and attach end with the code of what they show.";

/// Run sandboxes: groups of containers that share a network and volumes, on a replicated control plane.
#[derive(Debug, Parser)]
#[command(name = "sbxctl", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
pub struct Global {
    /// A replica, as https://HOST:PORT; several by repeating or with commas. Any replica answers anything.
    #[arg(
        long,
        global = true,
        env = "SBX_SERVER",
        value_name = "URL",
        value_delimiter = ',',
        help_heading = "Global options"
    )]
    pub server: Vec<String>,
    /// The file of the cluster's certificate authority, by which its replicas are known.
    #[arg(
        long,
        global = true,
        env = "SBX_CA",
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub ca: Option<PathBuf>,
    /// The token that says who you are; better in the variable or in a context, where nobody sees it.
    #[arg(
        long,
        global = true,
        env = "SBX_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        help_heading = "Global options"
    )]
    pub token: Option<String>,
    /// A file that names replicas, authority and token, as `cluster init` writes it [default: the local cluster that
    /// is up, then ~/.config/sandboxd/context.toml].
    #[arg(
        long,
        global = true,
        env = "SBX_CONTEXT",
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub context: Option<PathBuf>,
    /// How long one request may take, retries and changes of leader included.
    #[arg(long, global = true, env = "SBX_REQUEST_TIMEOUT", value_name = "TIME", default_value = "30s",
          value_parser = positive_duration, help_heading = "Global options")]
    pub request_timeout: Duration,
    /// Form of the output; a table by default.
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    pub output: Option<Format>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create or change what manifests describe.
    Apply(ApplyArgs),
    /// Show sandboxes, nodes, externals or the cluster.
    Get(GetArgs),
    /// Show one sandbox or node with all that is known of it, and what has happened to it.
    Describe(DescribeArgs),
    /// Show what has happened to sandboxes and nodes.
    Events(EventsArgs),
    /// Delete objects.
    Delete(DeleteArgs),
    /// Show what a sandbox's containers have written.
    Logs(LogsArgs),
    /// Run a command in a container.
    Exec(ExecArgs),
    /// Show what a container writes from now on.
    Attach(AttachArgs),
    /// Copy files and directories into a sandbox or out of it.
    Cp(CpArgs),
    /// Reach ports of a sandbox from this machine, published or not.
    PortForward(PortForwardArgs),
    /// Wait until a sandbox or node is in a state.
    Wait(WaitArgs),
    /// Let nodes take no new sandboxes; what runs there goes on.
    Cordon(NodesArgs),
    /// Let nodes take sandboxes again; a drain under way is called off.
    Uncordon(NodesArgs),
    /// Empty nodes, before they are switched off.
    Drain(DrainArgs),
    /// What sandboxes may loosen of their isolation: nothing, unless it is allowed here.
    Policy(PolicyArgs),
    /// Check manifests without a cluster.
    Validate(ValidateArgs),
    /// Set up a cluster, and change the replicas that make it up.
    Cluster(ClusterArgs),
    /// Who may speak to the cluster: tokens of people, and of machines that join.
    Token(TokenArgs),
    /// A local cluster of real processes, to try things and to test failover. Needs root.
    Dev(DevArgs),
    /// Print a completion script: `source <(sbxctl completion bash)`.
    Completion { shell: clap_complete::Shell },
}

#[derive(Debug, Args)]
pub struct Files {
    /// A manifest, a folder of manifests (.yaml, .yml, .json; not its subfolders), or - for stdin.
    #[arg(short, long = "filename", value_name = "FILE")]
    pub filename: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Everything is checked before anything is sent; all faults are shown at once.

Examples:
  sbxctl apply -f web.yaml -f volumes/
  cat web.yaml | sbxctl apply -f -
  sbxctl apply -f web.yaml --replace --wait     also where a field that can't be changed has changed")]
pub struct ApplyArgs {
    #[command(flatten)]
    pub files: Files,
    /// Delete and create again where an immutable field has changed.
    #[arg(long)]
    pub replace: bool,
    /// Wait until every applied sandbox runs (or has succeeded).
    #[arg(long)]
    pub wait: bool,
    /// How long --wait waits for all of them.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = positive_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sbxctl get sandboxes
  sbxctl get sbx web cache -o json
  sbxctl get nodes -l region=eu -o wide
  sbxctl get sandboxes --watch
  sbxctl get cluster")]
pub struct GetArgs {
    /// sandboxes (sandbox, sbx), nodes (node), externals (external, ext) or cluster.
    #[arg(value_name = "KIND")]
    pub kind: GetKind,
    /// Only these.
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// Only what carries this label; several must all match.
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = key_value)]
    pub labels: Vec<(String, String)>,
    /// Only sandboxes in this phase.
    #[arg(long, value_parser = phase)]
    pub phase: Option<proto::status::Phase>,
    /// Go on and show every change.
    #[arg(short, long)]
    pub watch: bool,
    /// Answer from the replica's own state, which may lag; works without a quorum.
    #[arg(long)]
    pub stale: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sbxctl describe sandbox web
  sbxctl describe node/agent-2
  sbxctl describe sandbox web -o yaml")]
pub struct DescribeArgs {
    /// KIND ID, or KIND/ID.
    #[arg(value_name = "KIND ID | KIND/ID", required = true)]
    pub targets: Vec<String>,
    /// Answer from the replica's own state, which may lag; works without a quorum.
    #[arg(long)]
    pub stale: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The last 20 things are kept of each sandbox and node, for as long as it is there itself; what happens again is counted.

Examples:
  sbxctl events                        of all sandboxes and nodes, the newest last
  sbxctl events sandbox/web node/agent-2
  sbxctl events -l team=a")]
pub struct EventsArgs {
    /// KIND ID..., or KIND/ID...; none: all.
    #[arg(value_name = "KIND ID | KIND/ID")]
    pub targets: Vec<String>,
    /// Only of what carries this label; several must all match.
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = key_value)]
    pub labels: Vec<(String, String)>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sbxctl delete sandbox web cache
  sbxctl delete sandbox/web node/agent-2
  sbxctl delete -f web.yaml --wait
  sbxctl delete node agent-2 --force")]
pub struct DeleteArgs {
    /// KIND ID..., or KIND/ID...
    #[arg(value_name = "KIND ID | KIND/ID")]
    pub targets: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    /// Wait until each is gone, with all that a node held for it.
    #[arg(long)]
    pub wait: bool,
    /// How long --wait waits for all of them.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = positive_duration)]
    pub timeout: Duration,
    /// Nodes: also where sandboxes are still placed there.
    #[arg(long)]
    pub force: bool,
    /// What is not there counts as deleted.
    #[arg(long)]
    pub ignore_not_found: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Lines are prefixed with [container] where a sandbox has more than one. Following goes on over a change of
leader, without a line lost or shown twice. Containers are never started twice, so there is no `--previous`: the
logs of a sandbox that has ended are shown by the same command until it is deleted, or its time of retention
(1 h by default) is over. A node keeps the last 30 MiB of each container.

Examples:
  sbxctl logs web                                also after it has ended
  sbxctl logs -f --tail 20 web -c server
  sbxctl logs --since 5m --timestamps web")]
pub struct LogsArgs {
    /// A sandbox's id; sandbox/ID is understood too.
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// Go on until the sandbox has ended.
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last lines of each container.
    #[arg(long, value_name = "LINES")]
    pub tail: Option<u64>,
    /// Only lines younger than this (5m, 1h30m), or since a time (2026-01-31T08:00:00Z).
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Since>,
    /// Only this container.
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Begin each line with the time it was written.
    #[arg(long)]
    pub timestamps: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A place in a sandbox is SANDBOX:PATH or SANDBOX:CONTAINER:PATH; the first container is meant where none is named.
What is copied goes into a directory that is there, under its own name, and takes the name that was written
otherwise. `DIR/.` copies what is in DIR. The image needs no `tar`. Files are root's in the container, and yours
here; links that lead out of the copy, devices and set-user-id bits stay behind on the way here.

Examples:
  sbxctl cp site web:/www                        becomes /www/site
  sbxctl cp site/. web:/www                      what is in it, into /www
  sbxctl cp web:server:/var/log/app.log .
  sbxctl cp web:/data - | tar t                  as a tar stream
  tar c src | sbxctl cp - web:/work")]
pub struct CpArgs {
    /// A file or directory, here or in a sandbox; - for a tar stream on stdin.
    #[arg(value_name = "FROM")]
    pub from: String,
    /// Where to; - for a tar stream on stdout.
    #[arg(value_name = "TO")]
    pub to: String,
    /// The container of the sandbox.
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Programs are reached that listen on 127.0.0.1 in the sandbox alone. Ends with the sandbox, or with Ctrl-C.

Examples:
  sbxctl port-forward web 8080:80                127.0.0.1:8080 here is port 80 there
  sbxctl port-forward web 5432 :9000             the same number, and any free one
  sbxctl port-forward --address 0.0.0.0 web 8080:80")]
pub struct PortForwardArgs {
    /// A sandbox's id; sandbox/ID is understood too.
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// Ports of the sandbox, tcp, each with the port of this machine that stands for it.
    #[arg(value_name = "[LOCAL:]PORT", required = true)]
    pub ports: Vec<PortPair>,
    /// The address of this machine to listen on; others can reach any but the loopback's.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub address: std::net::IpAddr,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The command runs as the container's own program does: same user, folder, environment, capabilities and limits.
It needs no shell, but knows none either: write `sh -c '...'` where you want one.

Its exit code becomes that of sbxctl: 128 + N where signal N ended it, 127 where it is not in the image, 126
where it can't be run. Whatever keeps sbxctl from running it is told on stderr, with one of sbxctl's own codes.

Signals that sbxctl gets are passed on to it (with -t, keys do that); Ctrl-C for the third time ends sbxctl at
once. When sbxctl ends first, or loses its connection, the command gets SIGHUP, and SIGKILL 2 s later.

Examples:
  sbxctl exec web -- ls -l /data
  sbxctl exec -it web -c server -- sh              a shell, in a terminal
  sbxctl exec -i web -- tar -C /data -x < data.tar
  sbxctl exec web -- sh -c 'kill -USR1 1'")]
pub struct ExecArgs {
    /// A sandbox's id; sandbox/ID is understood too.
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// Pass stdin on to the command, which else has none.
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Give it a terminal of its own, of this one's size. Its errors then come on stdout as well.
    #[arg(short = 't', long)]
    pub tty: bool,
    /// In this container; by default the sandbox's first one.
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// A variable, in addition to the container's or instead of one; may be repeated.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = variable)]
    pub env: Vec<String>,
    /// The command and its arguments, behind --.
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Byte for byte and as it is written, also what has no end of line yet; `sbxctl logs -f` shows lines, those of
before as well. Ends with the container, with its exit code. What is not read as fast as it comes is skipped,
and told at the end: a container is never held up by who watches it.

Examples:
  sbxctl attach web
  sbxctl attach web -c server")]
pub struct AttachArgs {
    /// A sandbox's id; sandbox/ID is understood too.
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// This container; by default the sandbox's first one.
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Refused: containers are started without an input. See `sbxctl exec -i`.
    #[arg(short = 'i', long)]
    pub stdin: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    Ago(Duration),
    /// Milliseconds since the Unix epoch.
    At(u64),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Fails at once where the awaited state can't come any more, such as Running after Failed.

Examples:
  sbxctl wait sandbox/web --for phase=Running --timeout 60s
  sbxctl wait sandbox/job --for Ended            Succeeded or Failed
  sbxctl wait sandbox/web --for deleted
  sbxctl wait node/agent-1 --for state=Ready")]
pub struct WaitArgs {
    /// KIND/ID, or KIND ID...
    #[arg(value_name = "KIND/ID", required = true)]
    pub targets: Vec<String>,
    /// phase=Pending|Scheduled|Running|Succeeded|Failed|Deleting, Ended, deleted, or state=Ready|NotReady|Lost.
    #[arg(long = "for", value_name = "STATE")]
    pub goal: Goal,
    /// How long to wait for all of them.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = positive_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct NodesArgs {
    /// Ids of nodes.
    #[arg(value_name = "NODE", required = true)]
    pub nodes: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The nodes take no new sandboxes. Sandboxes with `on_node_loss: reschedule` are placed elsewhere at once, the others
have until the deadline to end by themselves; then they are Failed with NodeLost. `sbxctl uncordon` calls it off.

Examples:
  sbxctl drain agent-1                           10 minutes for what runs there; waits until the node is empty
  sbxctl drain agent-1 --deadline 0s             at once
  sbxctl drain agent-1 --deadline 2h --no-wait   returns; sbxctl get nodes shows how it goes on")]
pub struct DrainArgs {
    #[command(flatten)]
    pub nodes: NodesArgs,
    /// How long what runs there may go on.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    pub deadline: Duration,
    /// Return as soon as the drain has begun.
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
extra_capabilities   cap_add beyond Docker's default set
unconfined           seccomp=unconfined and apparmor=unconfined
new_privileges       no-new-privileges:false

A change holds for sandboxes that are created from then on.

Examples:
  sbxctl policy get
  sbxctl policy set unconfined=true new_privileges=false")]
pub struct PolicyArgs {
    #[command(subcommand)]
    pub command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show what is allowed.
    Get {
        /// Answer from the replica's own state, which may lag; works without a quorum.
        #[arg(long)]
        stale: bool,
    },
    /// Allow or refuse; what is not named stays as it is.
    Set {
        /// NAME=true allows, NAME=false refuses.
        #[arg(value_name = "NAME=BOOL", required = true, value_parser = policy_setting)]
        settings: Vec<(PolicyName, bool)>,
    },
}

/// What a policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum PolicyName {
    ExtraCapabilities,
    Unconfined,
    NewPrivileges,
}

#[derive(Debug, Args)]
pub struct ValidateArgs {
    #[command(flatten)]
    pub files: Files,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each member is a host of its own: a network namespace with an address on a bridge of this machine. The
replicas are replica-1..N, the agents agent-1..N; `leader` is whichever replica leads.

Examples:
  sbxctl dev up --replicas 3 --agents 2
  sbxctl dev kill leader                         what a crash does; `dev restart replica-1` brings it back
  sbxctl dev pause agent-1                       what a frozen machine does
  sbxctl dev partition replica-2                 what a broken switch does; `dev heal` mends it
  sbxctl dev add replica                         one more replica joins, as on a new machine
  sbxctl dev down")]
pub struct DevArgs {
    /// Where the cluster lives; by default the one that is up, for `up` /var/lib/sandboxd/dev.
    #[arg(long, global = true, env = "SBX_DEV_DIR", value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
    #[command(subcommand)]
    pub command: DevCommand,
}

#[derive(Debug, Subcommand)]
pub enum DevCommand {
    /// Start a cluster and wait until it has a leader and all nodes are Ready.
    Up(UpArgs),
    /// Start one more member, and wait until it takes part.
    Add {
        /// What to add.
        #[arg(value_enum)]
        what: AddArg,
    },
    /// Show the members: processes, addresses, roles.
    Status,
    /// End members at once, as a crash would (SIGKILL).
    Kill(MembersArgs),
    /// Freeze members (SIGSTOP).
    Pause(MembersArgs),
    /// Let frozen members go on (SIGCONT).
    Resume(MembersArgs),
    /// Start members again on the data they have.
    Restart(MembersArgs),
    /// Cut members off from all others. They still reach each other, and users on this machine reach them.
    Partition(MembersArgs),
    /// End every partition.
    Heal,
    /// End the cluster and remove all it made.
    Down {
        /// Keep the members' data; a later `dev up` with the same folder goes on with it.
        #[arg(long)]
        keep_data: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AddArg {
    /// A replica, which joins with a token; `sbxctl cluster remove` takes one out.
    Replica,
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    pub command: TokenCommand,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token, and print it: it is shown this once.
    Create(TokenCreateArgs),
    /// Show the tokens there are, and when they were used last.
    #[command(visible_alias = "list")]
    Ls,
    /// Make tokens worthless, at once on every replica.
    Revoke {
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
A viewer reads; an operator also changes sandboxes and nodes, and reaches into them; an admin also says who may do what.

Examples:
  sbxctl token create ci --role operator --expires 90days
  sbxctl token create --join-node                     lets one new agent in, within a day
  sbxctl token create --join-node --for agent-3       also where the node is known already
  sbxctl token create --join-replica                  lets one new replica in; says how to start it")]
pub struct TokenCreateArgs {
    /// What to call it.
    #[arg(value_name = "NAME", default_value = "")]
    pub name: String,
    /// What it allows.
    #[arg(long, value_enum, required_unless_present_any = ["join_node", "join_replica"])]
    pub role: Option<RoleArg>,
    /// It lets one agent join the cluster.
    #[arg(long, conflicts_with_all = ["role", "join_replica"])]
    pub join_node: bool,
    /// It lets one replica join the cluster, and gives it the authority's key.
    #[arg(long, conflicts_with = "role")]
    pub join_replica: bool,
    /// With --join-node and --join-replica: the only one that may use it, by its id.
    #[arg(long = "for", value_name = "ID", conflicts_with = "role")]
    pub machine: Option<String>,
    /// When it ends; by default never, and after a day where it lets a machine in.
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub expires: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    Viewer,
    Operator,
    Admin,
}

#[derive(Debug, Args)]
pub struct MembersArgs {
    /// leader, replica-N or agent-N.
    #[arg(value_name = "MEMBER", required = true)]
    pub members: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// Replicas of the control plane: 1, 3 or 5.
    #[arg(long, default_value_t = 3, value_parser = replica_count)]
    pub replicas: u8,
    /// Nodes that run sandboxes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub agents: u8,
    /// Fetch images of a registry from another address: docker.io=http://10.88.0.1:5000. An address of
    /// this machine is reachable at the subnet's .1, which {host} stands for.
    #[arg(long, value_name = "REGISTRY=URL")]
    pub mirror: Vec<String>,
    /// The members' network, a /24; by default a free one of 10.88.0.0/16.
    #[arg(long, value_name = "CIDR")]
    pub subnet: Option<String>,
    /// A label of every node, or of one: agent-2:region=eu.
    #[arg(long, value_name = "[AGENT:]KEY=VALUE")]
    pub label: Vec<String>,
    /// A further argument for every sbxlet, in which {host} stands for the same.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub agent_arg: Vec<String>,
    /// A further argument for every sbxorch, likewise.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub replica_arg: Vec<String>,
    /// Plain text, and nobody is asked who he is.
    #[arg(long)]
    pub insecure: bool,
    /// How long to wait for the cluster to be ready.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = positive_duration)]
    pub timeout: Duration,
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|e| format!("{e}: write a number with ms, s, m or h, such as 30s"))?;
    if duration.is_zero() {
        return Err("must be longer than 0".to_owned());
    }
    Ok(duration)
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("write KEY=VALUE".to_owned()),
    }
}

fn policy_setting(text: &str) -> Result<(PolicyName, bool), String> {
    let (name, allowed) = key_value(text)?;
    let name = PolicyName::from_str(&name, false)
        .map_err(|_| format!("`{name}` is none of extra_capabilities, unconfined, new_privileges"))?;
    let allowed = allowed
        .parse()
        .map_err(|_| format!("`{allowed}` is neither true nor false"))?;
    Ok((name, allowed))
}

fn variable(text: &str) -> Result<String, String> {
    key_value(text).map(|_| text.to_owned())
}

fn phase(text: &str) -> Result<proto::status::Phase, String> {
    crate::commands::wait::parse_phase(text)
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(Since::Ago(ago));
    }
    let at = humantime::parse_rfc3339_weak(text)
        .map_err(|_| "write a time span such as 5m, or a time such as 2026-01-31T08:00:00Z".to_owned())?;
    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Since::At(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

fn replica_count(text: &str) -> Result<u8, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("1, 3 or 5 replicas make a cluster".to_owned()),
    }
}

impl Files {
    /// # Errors
    /// Where no file was named.
    pub fn required(&self, command: &str) -> Result<(), crate::failure::Failure> {
        if self.filename.is_empty() {
            return Err(crate::failure::Failure::Usage(format!(
                "name a manifest: `sbxctl {command} -f FILE`"
            )));
        }
        Ok(())
    }
}

/// Targets of `delete` and `wait`: `KIND ID...` or `KIND/ID...`.
///
/// # Errors
/// A text for the user where a word is neither.
pub fn targets(words: &[String]) -> Result<Vec<Target>, crate::failure::Failure> {
    Target::parse_all(words).map_err(crate::failure::Failure::Usage)
}
