//! `sbxctl cluster init`: the identity of a new cluster, made without one.

use crate::args::ClusterInitArgs;
use crate::client::Endpoint;
use crate::context;
use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::provision::{self, Machines, ProvisionError, Replica};
use identity::folder;
use proto::id::NodeId;
use std::path::Path;

pub(super) fn run(args: &ClusterInitArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("cluster init")?;
    let machines = machines(args)?;
    let fingerprint = provision::create(&args.out, &machines)?;
    let dir = args.out.display();
    invocation.say(format_args!("authority     {fingerprint}"))?;
    for replica in &machines.replicas {
        let id = replica.id;
        invocation.say(format_args!("replica {id:<5} {dir}/replica-{id}"))?;
    }
    for agent in &machines.agents {
        invocation.say(format_args!("agent         {dir}/node-{agent}"))?;
    }
    invocation.say(format_args!("first token   {dir}/{}", provision::TOKEN))?;
    let list = args.replica.join(",");
    invocation.note(format_args!(
        "
Next:
  1. Copy {dir}/replica-N to /etc/sandboxd/tls on the machine of each replica, and start it there:
       sbxorch --id N --listen ADDRESS:7070 --peer-listen ADDRESS:7071 \\
               --advertise URL --advertise-peer PEER_URL --initial-cluster {list}
  2. Copy {dir}/node-ID to /etc/sandboxd/tls on the machine of each agent, and start it there:
       sbxlet --node-id ID --tls-dir /etc/sandboxd/tls --server {server}
     An agent without such a folder joins with --join-token, which `sbxctl token create --join-node` prints.
  3. Keep {dir}/ca.key and {dir}/admin.token where nobody else reads them; delete the folder of each machine.",
        server = machines.servers.join(" --server "),
    ));
    remember(&args.out, &machines, invocation)
}

/// Makes the cluster the one that `sbxctl` of this user finds, unless there is one.
fn remember(dir: &Path, machines: &Machines, invocation: &mut Invocation) -> Result<(), Failure> {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let Some(path) = context::user_file().filter(|path| !path.exists()) else {
        let written = dir.join(context::FILE);
        invocation.note(format_args!(
            "  4. sbxctl --context {} get cluster",
            written.display()
        ));
        return Ok(());
    };
    let file = context::File {
        servers: machines.servers.clone(),
        ca: Some(dir.join(folder::AUTHORITY)),
        token: Some(dir.join(provision::TOKEN)),
    };
    if let Some(parent) = path.parent() {
        folder::create(parent).map_err(ProvisionError::from)?;
    }
    file.write(&path)?;
    invocation.note(format_args!(
        "  4. sbxctl get cluster\n     (it finds the cluster by {})",
        path.display()
    ));
    Ok(())
}

fn machines(args: &ClusterInitArgs) -> Result<Machines, Failure> {
    let mut machines = Machines {
        replicas: Vec::new(),
        agents: Vec::new(),
        servers: Vec::new(),
    };
    for text in &args.replica {
        let form = || {
            Failure::Usage(format!(
                "--replica {text}: write N=PEER_URL=URL, such as 1=https://10.0.0.1:7071=https://10.0.0.1:7070"
            ))
        };
        let parts: Vec<&str> = text.split('=').collect();
        let [id, peer, server] = parts[..] else {
            return Err(form());
        };
        let id: u64 = id.parse().ok().filter(|id| *id > 0).ok_or_else(form)?;
        if machines.replicas.iter().any(|replica| replica.id == id) {
            return Err(Failure::Usage(format!("--replica {id} occurs twice")));
        }
        let (peer, server): (Endpoint, Endpoint) = (peer.parse()?, server.parse()?);
        let mut hosts = Vec::new();
        for endpoint in [&peer, &server] {
            if !endpoint.as_str().starts_with("https://") {
                return Err(form());
            }
            let host = endpoint.host().to_owned();
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        machines.replicas.push(Replica { id, hosts });
        machines.servers.push(server.to_string());
    }
    for text in &args.host {
        let (id, host) = match text.split_once(':') {
            Some((id, host)) if id.parse::<u64>().is_ok() => (id.parse::<u64>().ok(), host),
            Some(_) | None => (None, text.as_str()),
        };
        for replica in &mut machines.replicas {
            if id.is_none_or(|id| id == replica.id) {
                replica.hosts.push(host.to_owned());
            }
        }
    }
    for id in &args.agent {
        let id = NodeId::new(id.clone()).map_err(|why| Failure::Usage(format!("--agent {id}: {why}")))?;
        machines.agents.push(id);
    }
    Ok(machines)
}
