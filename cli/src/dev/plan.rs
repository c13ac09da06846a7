//! Names, addresses and command lines of a cluster's members, from a few numbers. Pure.

use crate::provision::{self, Machines, Replica};
use identity::principal::Principal;
use proto::id::NodeId;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// For users and agents.
pub(super) const PORT: u16 = 7070;
/// For replicas.
pub(super) const PEER_PORT: u16 = 7071;
/// Last octets: the machine itself, then replicas and agents from the next on.
const HOST_OCTET: u8 = 1;
const REPLICA_OCTET: u8 = 10;
const AGENT_OCTET: u8 = 20;
/// What an agent of its own machine takes by itself: 24,576 times what a sandbox has.
const FIRST_USER_ID: u32 = 0x1000_0000;
const USER_ID_RANGES: u32 = 0x6000;
const IDS_OF_A_SANDBOX: u32 = 0x1_0000;

/// A cluster as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) dir: PathBuf,
    pub(super) subnet: Subnet,
    pub(super) replicas: u8,
    /// Replicas that have joined since, by number.
    #[serde(default)]
    pub(super) joined: Vec<u8>,
    pub(super) agents: u8,
    pub(super) replica_program: PathBuf,
    pub(super) agent_program: PathBuf,
    /// Here and in further arguments, `{host}` stands for the machine's address.
    pub(super) mirrors: Vec<String>,
    pub(super) labels: Vec<Label>,
    pub(super) replica_args: Vec<String>,
    pub(super) agent_args: Vec<String>,
    /// Plain text; also what clusters of before there was anything else are.
    #[serde(default = "plain")]
    pub(super) insecure: bool,
}

fn plain() -> bool {
    true
}

/// A label of one node, or of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Label {
    pub(super) agent: Option<String>,
    pub(super) text: String,
}

/// A /24, by its first three octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subnet(pub(super) [u8; 3]);

impl Subnet {
    pub(super) const PREFIX: u8 = 24;

    pub(super) fn address(self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.0;
        Ipv4Addr::new(a, b, c, last)
    }

    /// The machine, as members see it.
    pub(super) fn host(self) -> Ipv4Addr {
        self.address(HOST_OCTET)
    }

    pub(super) fn contains(self, address: Ipv4Addr) -> bool {
        address.octets()[..3] == self.0
    }

    /// # Errors
    /// Why the text is no network for a cluster.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (address, prefix) = text.split_once('/').ok_or("write a /24, such as 10.88.7.0/24")?;
        let address: Ipv4Addr = address.parse().map_err(|_| "write a /24, such as 10.88.7.0/24")?;
        if prefix != "24" || address.octets()[3] != 0 {
            return Err("it must be a whole /24, such as 10.88.7.0/24");
        }
        if !address.is_private() {
            return Err("it must be of a private range: 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16");
        }
        // Sandboxes have their addresses there.
        if address.octets()[..2] == [10, 89] {
            return Err("10.89.0.0/16 is the sandboxes'");
        }
        let [a, b, c, _] = address.octets();
        Ok(Self([a, b, c]))
    }

    /// What kernel objects of the cluster are named after: unique among clusters of one machine, since a
    /// bridge of this name is made first of all.
    fn tag(self) -> String {
        let [a, b, c] = self.0;
        if [a, b] == [10, 88] {
            c.to_string()
        } else {
            format!("{a:02x}{b:02x}{c:02x}")
        }
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address(0), Self::PREFIX)
    }
}

/// All bridges of local clusters begin so. Short, since a link's name has 15 bytes at most.
pub(super) const BRIDGE_PREFIX: &str = "sbxd";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Replica,
    Agent,
}

/// One member: a host of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) role: Role,
    /// From 1.
    pub(super) number: u8,
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) address: Ipv4Addr,
    /// The machine's end of its cable.
    pub(super) link: String,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
}

impl Member {
    /// Where its network namespace is pinned.
    pub(super) fn netns(&self) -> PathBuf {
        self.dir.join("netns")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// What it keeps over a restart.
    pub(super) fn data(&self) -> PathBuf {
        self.dir.join(match self.role {
            Role::Replica => "data",
            Role::Agent => "state",
        })
    }
}

impl Plan {
    /// Where the identity of the cluster is: its authority, everybody's certificates, the administrator's token.
    pub(super) fn identity(&self) -> PathBuf {
        self.dir.join("identity")
    }

    /// Who has certificates.
    pub(super) fn machines(&self) -> Machines {
        let replica = |number| Replica {
            id: u64::from(number),
            hosts: vec![self.replica_address(number).to_string()],
        };
        Machines {
            replicas: (1..=self.replicas).map(replica).collect(),
            agents: (1..=self.agents)
                .filter_map(|number| NodeId::new(agent_name(number)).ok())
                .collect(),
            servers: self.endpoints(),
        }
    }

    fn scheme(&self) -> &'static str {
        if self.insecure { "http" } else { "https" }
    }

    /// How a member shows who it is.
    fn security(&self, principal: &Principal) -> Vec<String> {
        if self.insecure {
            return vec!["--insecure".to_owned()];
        }
        let dir = provision::machine(&self.identity(), principal);
        arguments(&[("--tls-dir", text(&dir))])
    }

    /// Where users reach a replica.
    pub(super) fn endpoint_of(&self, member: &Member) -> String {
        format!("{}://{}:{PORT}", self.scheme(), member.address)
    }

    /// At most 15 bytes, as every link's name.
    pub(super) fn bridge(&self) -> String {
        format!("{BRIDGE_PREFIX}{}", self.subnet.tag())
    }

    /// The machine's nftables table, named as the bridge.
    pub(super) fn table(&self) -> String {
        self.bridge()
    }

    /// Below which every agent has its cgroups.
    pub(super) fn cgroup(&self) -> String {
        format!("sandboxd-dev-{}", self.subnet.tag())
    }

    pub(super) fn endpoints(&self) -> Vec<String> {
        self.replica_numbers().map(|n| self.endpoint(n)).collect()
    }

    fn replica_numbers(&self) -> impl Iterator<Item = u8> {
        (1..=self.replicas).chain(self.joined.iter().copied())
    }

    /// Takes note of one more replica; `None` where there is no address left for it.
    pub(super) fn join_replica(&mut self) -> Option<Member> {
        let number = self.replica_numbers().max().unwrap_or_default() + 1;
        if REPLICA_OCTET + number >= AGENT_OCTET {
            return None;
        }
        self.joined.push(number);
        Some(self.replica(number))
    }

    fn replica_address(&self, number: u8) -> Ipv4Addr {
        self.subnet.address(REPLICA_OCTET + number)
    }

    fn endpoint(&self, number: u8) -> String {
        format!("{}://{}:{PORT}", self.scheme(), self.replica_address(number))
    }

    fn peer_endpoint(&self, number: u8) -> String {
        format!("{}://{}:{PEER_PORT}", self.scheme(), self.replica_address(number))
    }

    /// Replicas first.
    pub(super) fn members(&self) -> Vec<Member> {
        let replicas = self.replica_numbers().map(|number| self.replica(number));
        let agents = (1..=self.agents).map(|number| self.agent(number));
        replicas.chain(agents).collect()
    }

    fn replica(&self, number: u8) -> Member {
        let name = format!("replica-{number}");
        let dir = self.dir.join(&name);
        let address = self.replica_address(number);
        let cluster: Vec<String> = (1..=self.replicas)
            .map(|n| format!("{n}={}={}", self.peer_endpoint(n), self.endpoint(n)))
            .collect();
        let mut args = arguments(&[
            ("--id", number.to_string()),
            ("--listen", format!("{address}:{PORT}")),
            ("--peer-listen", format!("{address}:{PEER_PORT}")),
            ("--advertise", self.endpoint(number)),
            ("--advertise-peer", self.peer_endpoint(number)),
            ("--data-dir", text(&dir.join("data"))),
        ]);
        args.extend(if self.joined.contains(&number) {
            let others = self.replica_numbers().filter(|other| *other != number);
            let others: Vec<String> = others.map(|other| self.endpoint(other)).collect();
            arguments(&[("--join", others.join(","))])
        } else {
            arguments(&[("--initial-cluster", cluster.join(","))])
        });
        args.extend(self.security(&Principal::Replica(u64::from(number))));
        args.extend(self.further(&self.replica_args));
        Member {
            role: Role::Replica,
            number,
            dir,
            address,
            link: format!("{}r{number}", self.bridge()),
            program: self.replica_program.clone(),
            args,
            name,
        }
    }

    /// As given, with the machine's address.
    fn further(&self, given: &[String]) -> impl Iterator<Item = String> {
        let host = self.subnet.host().to_string();
        given.iter().map(move |text| text.replace("{host}", &host))
    }

    /// Agents on one machine share its user ids, each with sandboxes of its own.
    fn user_ids(&self, number: u8) -> String {
        let each = USER_ID_RANGES / u32::from(self.agents.max(1)) * IDS_OF_A_SANDBOX;
        let first = FIRST_USER_ID + (u32::from(number) - 1) * each;
        format!("{first}:{each}")
    }

    fn agent(&self, number: u8) -> Member {
        let name = agent_name(number);
        let dir = self.dir.join(&name);
        let address = self.subnet.address(AGENT_OCTET + number);
        let mut options = vec![
            ("--node-id", name.clone()),
            ("--advertise-ip", address.to_string()),
            ("--state-dir", text(&dir.join("state"))),
            ("--cgroup-parent", format!("/{}/{name}", self.cgroup())),
            ("--user-ids", self.user_ids(number)),
        ];
        options.extend(
            self.endpoints()
                .into_iter()
                .map(|endpoint| ("--server", endpoint)),
        );
        options.extend(self.further(&self.mirrors).map(|mirror| ("--mirror", mirror)));
        options.extend(
            self.labels
                .iter()
                .filter(|label| label.agent.as_ref().is_none_or(|agent| *agent == name))
                .map(|label| ("--label", label.text.clone())),
        );
        let mut args = arguments(&options);
        if let Ok(id) = NodeId::new(name.clone()) {
            args.extend(self.security(&Principal::Node(id)));
        }
        args.extend(self.further(&self.agent_args));
        Member {
            role: Role::Agent,
            number,
            dir,
            address,
            link: format!("{}a{number}", self.bridge()),
            program: self.agent_program.clone(),
            args,
            name,
        }
    }
}

fn agent_name(number: u8) -> String {
    format!("agent-{number}")
}

impl Label {
    /// `KEY=VALUE` or `agent-N:KEY=VALUE`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (agent, label) = match text.split_once(':') {
            Some((agent, label)) if agent.starts_with("agent-") => (Some(agent.to_owned()), label),
            Some(_) | None => (None, text),
        };
        let (key, _) = label.split_once('=')?;
        (!key.is_empty()).then(|| Self {
            agent,
            text: label.to_owned(),
        })
    }
}

fn arguments(options: &[(&str, String)]) -> Vec<String> {
    options
        .iter()
        .flat_map(|(name, value)| [(*name).to_owned(), value.clone()])
        .collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn plan() -> Plan {
        Plan {
            dir: "/d".into(),
            subnet: Subnet([10, 88, 7]),
            replicas: 3,
            joined: Vec::new(),
            agents: 2,
            replica_program: "/bin/sbxorch".into(),
            agent_program: "/bin/sbxlet".into(),
            mirrors: vec!["docker.io=http://{host}:5000".to_owned()],
            labels: ["a=b", "agent-2:region=eu"]
                .map(|l| Label::parse(l).unwrap())
                .into(),
            replica_args: vec!["--x={host}:1".to_owned()],
            agent_args: vec!["--y=1".to_owned()],
            insecure: true,
        }
    }

    #[test]
    fn replica_gets_its_addresses_and_the_whole_cluster() {
        let member = plan().replica(2);
        let expected = "--id 2 --listen 10.88.7.12:7070 --peer-listen 10.88.7.12:7071 \
             --advertise http://10.88.7.12:7070 --advertise-peer http://10.88.7.12:7071 \
             --data-dir /d/replica-2/data \
             --initial-cluster 1=http://10.88.7.11:7071=http://10.88.7.11:7070,\
2=http://10.88.7.12:7071=http://10.88.7.12:7070,3=http://10.88.7.13:7071=http://10.88.7.13:7070 \
             --insecure --x=10.88.7.1:1";
        assert_eq!(
            member.args.join(" "),
            expected.split_whitespace().collect::<Vec<_>>().join(" ")
        );
        assert_eq!(
            (member.name.as_str(), member.link.as_str()),
            ("replica-2", "sbxd7r2")
        );
    }

    #[test]
    fn replica_that_joins_is_told_whom_to_ask_and_all_know_its_address() {
        let mut plan = plan();
        let member = plan.join_replica().expect("there is room");
        assert_eq!(member.name, "replica-4");
        let args = member.args.join(" ");
        assert!(
            args.contains("--join http://10.88.7.11:7070,http://10.88.7.12:7070,http://10.88.7.13:7070"),
            "{args}"
        );
        assert!(!args.contains("initial-cluster"), "{args}");
        assert!(plan.endpoints().contains(&"http://10.88.7.14:7070".to_owned()));
        assert_eq!(plan.members().len(), 6);
        let rest: Vec<String> = std::iter::from_fn(|| Some(plan.join_replica()?.name)).collect();
        assert_eq!(rest.len(), 5, "up to the agents' addresses: {rest:?}");
    }

    #[test]
    fn agent_gets_all_servers_the_mirror_and_its_labels() {
        let args = plan().agent(1).args.join(" ");
        let expected = "--node-id agent-1 --advertise-ip 10.88.7.21 --state-dir /d/agent-1/state \
             --cgroup-parent /sandboxd-dev-7/agent-1 --user-ids 268435456:805306368 --server http://10.88.7.11:7070 \
             --server http://10.88.7.12:7070 --server http://10.88.7.13:7070 \
             --mirror docker.io=http://10.88.7.1:5000 --label a=b --insecure --y=1";
        assert_eq!(args, expected.split_whitespace().collect::<Vec<_>>().join(" "));
        let args = plan().agent(2).args.join(" ");
        assert!(args.contains("--label a=b --label region=eu"), "{args}");
        assert!(args.contains("--user-ids 1073741824:805306368"), "{args}");
    }

    #[test]
    fn members_of_a_cluster_with_tls_get_their_identities() {
        let plan = Plan {
            insecure: false,
            ..plan()
        };
        let replica = plan.replica(2).args.join(" ");
        assert!(
            replica.contains("--advertise https://10.88.7.12:7070"),
            "{replica}"
        );
        assert!(
            replica.contains("--tls-dir /d/identity/replica-2 --x"),
            "{replica}"
        );
        let agent = plan.agent(1).args.join(" ");
        assert!(agent.contains("--server https://10.88.7.13:7070"), "{agent}");
        assert!(
            agent.contains("--tls-dir /d/identity/node-agent-1 --y=1"),
            "{agent}"
        );
        assert!(!replica.contains("insecure") && !agent.contains("insecure"));
    }

    #[track_caller]
    fn check_subnet(text: &str, expected: Result<&str, &str>) {
        match (Subnet::parse(text), expected) {
            (Ok(subnet), Ok(bridge)) => {
                let plan = Plan {
                    subnet,
                    agents: 100,
                    ..plan()
                };
                assert_eq!(plan.bridge(), bridge);
                assert_eq!(subnet.to_string(), text);
                for member in plan.members() {
                    assert!(
                        member.link.len() <= 14,
                        "{}: a peer's name is one longer",
                        member.link
                    );
                }
            }
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (got, expected) => panic!("{text}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn subnets_are_whole_private_blocks_and_give_short_names() {
        check_subnet("10.88.255.0/24", Ok("sbxd255"));
        check_subnet("192.168.7.0/24", Ok("sbxdc0a807"));
        check_subnet("10.88.7.0/16", Err("whole /24"));
        check_subnet("10.88.7.1/24", Err("whole /24"));
        check_subnet("8.8.8.0/24", Err("private"));
        check_subnet("10.89.1.0/24", Err("sandboxes'"));
        check_subnet("10.88.7.0", Err("/24"));
    }

    #[test]
    fn labels_are_of_all_nodes_or_of_one() {
        assert_eq!(Label::parse("nolabel"), None);
        assert_eq!(Label::parse("=x"), None);
        let value_with_colon = Label::parse("url=http:x").unwrap();
        assert_eq!(value_with_colon.agent, None);
    }
}
