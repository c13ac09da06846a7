//! What a container can see and do of what is not its own, whichever runtime made it, and what it may loosen.

use super::{LONG, await_log, logs, manifest};
use e2e::cluster::Cluster;
use std::collections::BTreeMap;

/// Docker's 14 capabilities, as the kernel shows them.
const DEFAULT_CAPABILITIES: &str = "00000000a80425fb";
const RUNTIMES: [&str; 3] = ["native", "runc", "crun"];
/// gVisor's programs make no system call of the host at all.
const WITH_USER_NAMESPACES: [&str; 3] = ["native", "runc", "crun"];

/// What a container has said as `KEY=VALUE`, without the names of containers.
fn said(cluster: &Cluster, sandbox: &str) -> BTreeMap<String, String> {
    let text = logs(cluster, sandbox);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

/// A sandbox of one container with these further fields.
fn with(id: &str, script: &str, container: &str) -> String {
    manifest(id, script, "").replace("- name: main", &format!("- name: main\n      {container}"))
}

/// Lines of `KEY=VALUE` from `/proc/self/status`.
const STATUS: &str = "for key in CapEff CapBnd CapInh CapAmb NoNewPrivs Seccomp; do \
     awk -v k=$key: '$1 == k {print k $2}' /proc/self/status | tr : =; done";

/// `KEY=refused`, or `KEY=done` where something went that must not.
fn attempts(attempts: &[(&str, &str)]) -> String {
    let attempts = attempts.iter().map(|(key, attempt)| {
        format!("if ({attempt}) >/dev/null 2>&1; then echo {key}=done; else echo {key}=refused; fi")
    });
    attempts.collect::<Vec<_>>().join("; ")
}

const FORBIDDEN: [(&str, &str); 13] = [
    ("mount namespace", "unshare -m true"),
    ("user namespace", "unshare -r true"),
    ("network namespace", "unshare -n true"),
    ("mount", "mount -t tmpfs tmpfs /mnt"),
    ("remount", "mount -o remount,rw /sys"),
    ("unmount", "umount /proc/kcore"),
    ("enter", "nsenter -t 1 -m true"),
    ("host name", "hostname other"),
    ("kernel log", "dmesg"),
    ("kernel memory", "test -n \"$(head -c 1 /proc/kcore)\""),
    ("kernel setting", "echo 1 > /proc/sys/vm/drop_caches"),
    ("firmware", "test -n \"$(ls /sys/firmware)\""),
    ("block device", "mknod /tmp/sda b 8 0 && head -c 1 /tmp/sda"),
];

/// Of what `sbxctl get nodes -o wide` shows, the first row under a header.
fn cell(table: &str, header: &str) -> String {
    let mut lines = table.lines();
    let at = lines.next().and_then(|line| line.find(header));
    let row = lines.next().unwrap_or_default();
    let rest = at.and_then(|at| row.get(at..)).unwrap_or_default();
    rest.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn root_inside_is_nobody_outside_and_the_node_says_so() {
    let cluster = Cluster::up(1, &[]);
    let table = cluster.sbxctl(&["get", "nodes", "-o", "wide"]).ok();
    assert_eq!(cell(&table, "USERNS"), "yes", "{table}");
    assert_eq!(cluster.get("node", "agent-1")["user_namespaces"], true);
    let script = "echo user=$(id -u); awk '{print \"map=\" $1 \" \" ($2 >= 268435456) \" \" $3}' /proc/self/uid_map; sleep 600";
    let all = WITH_USER_NAMESPACES.map(|runtime| manifest(runtime, script, &format!("runtime: {runtime}")));
    cluster.apply(&all.join("\n---\n"), &["--wait"]).ok();
    for runtime in WITH_USER_NAMESPACES {
        await_log(&cluster, runtime, "map=");
        let said = said(&cluster, runtime);
        assert_eq!((&*said["user"], &*said["map"]), ("0", "0 1 65536"), "{runtime}");
        let command = ["exec", runtime, "--", "cat", "/proc/self/gid_map"];
        let map = cluster.sbxctl(&command).ok();
        let numbers: Vec<&str> = map.split_whitespace().collect();
        assert_eq!((numbers[0], numbers[2]), ("0", "65536"), "{runtime}: {map}");
        // What stands for no input is the host's, and nobody's to take.
        let null = std::fs::metadata("/dev/null").expect("there");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&null), 0, "{runtime}");
    }
}

#[test]
fn containers_are_confined_as_dockers_by_every_runtime() {
    let cluster = Cluster::up(1, &[]);
    let script = format!("{STATUS}; {}", attempts(&FORBIDDEN));
    let all = RUNTIMES.map(|runtime| manifest(runtime, &script, &format!("runtime: {runtime}")));
    cluster.apply(&all.join("\n---\n"), &[]).ok();
    for runtime in RUNTIMES {
        cluster
            .wait(&format!("sandbox/{runtime}"), "phase=Succeeded", LONG)
            .ok();
        let said = said(&cluster, runtime);
        for (key, wanted) in [
            ("CapEff", DEFAULT_CAPABILITIES),
            ("CapBnd", DEFAULT_CAPABILITIES),
            ("CapInh", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            assert_eq!(
                said.get(key).map(String::as_str),
                Some(wanted),
                "{runtime}, {key}: {said:#?}"
            );
        }
        for (key, _) in FORBIDDEN {
            assert_eq!(
                said.get(key).map(String::as_str),
                Some("refused"),
                "{runtime}, {key}: {said:#?}"
            );
        }
    }
}

#[test]
fn containers_of_a_sandbox_share_network_ipc_and_uts_and_nothing_else() {
    let cluster = Cluster::up(1, &[]);
    let script = "for ns in net ipc uts pid mnt cgroup; do echo $ns=$(readlink /proc/self/ns/$ns); done; \
                  echo id=$$; echo processes=$(ls -d /proc/[0-9]* | wc -l)";
    let container = |name: &str| {
        format!(
            "    - {{name: {name}, image: 'busybox:1.36', args: [/bin/sh, -c, {script:?}], \
             resource: {{cpu: 100m, memory: 32Mi}}}}\n"
        )
    };
    let text = format!(
        "apiVersion: sandboxd.o/v1\nkind: Sandbox\nid: pair\nspec:\n  containers:\n{}{}",
        container("a"),
        container("b")
    );
    cluster.apply(&text, &[]).ok();
    cluster.wait("sandbox/pair", "phase=Succeeded", LONG).ok();
    let said = said(&cluster, "pair");
    let of = |container: &str, key: &str| {
        said.get(&format!("[{container}] {key}"))
            .cloned()
            .unwrap_or_default()
    };
    for shared in ["net", "ipc", "uts"] {
        assert_eq!(of("a", shared), of("b", shared), "{shared}: {said:#?}");
    }
    for own in ["pid", "mnt", "cgroup"] {
        assert_ne!(of("a", own), of("b", own), "{own}: {said:#?}");
    }
    for kind in ["net", "ipc", "uts", "pid", "mnt", "cgroup"] {
        let nodes = std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("readable");
        assert!(of("a", kind).starts_with(kind), "{kind}: {said:#?}");
        assert_ne!(of("a", kind), nodes.to_string_lossy(), "{kind}: {said:#?}");
    }
    assert_eq!(of("a", "id"), "1", "{said:#?}");
}

#[test]
fn what_loosens_isolation_needs_a_policy_that_allows_it() {
    let cluster = Cluster::up(1, &[]);
    let refused = |container: &str, field: &str| {
        let ran = cluster.apply(&with("loose", "true", container), &[]);
        ran.fails(1, &format!("spec.containers[0].{field}[0]"));
    };
    refused("cap_add: [SYS_ADMIN]", "cap_add");
    refused("security_opt: ['seccomp=unconfined']", "security_opt");
    refused("security_opt: ['apparmor=unconfined']", "security_opt");
    refused("security_opt: ['no-new-privileges:false']", "security_opt");
    let shown = cluster.run("policy get").ok();
    assert!(!shown.contains("yes"), "{shown}");
    let shown = cluster
        .run("policy set extra_capabilities=true unconfined=true new_privileges=true")
        .ok();
    assert!(!shown.contains("no\n"), "{shown}");
    let options =
        "cap_add: [SYS_ADMIN]\n      security_opt: ['no-new-privileges:false', 'seccomp=unconfined']";
    // What is allowed works, what was not asked for is as before, and what is dropped is gone.
    let table = [
        ("loose", options, "00000000a82425fb", "0", "0"),
        ("plain", "", DEFAULT_CAPABILITIES, "1", "2"),
        (
            "less",
            "cap_drop: [ALL]\n      cap_add: [CHOWN]",
            "0000000000000001",
            "1",
            "2",
        ),
    ];
    for (id, container, ..) in table {
        cluster.apply(&with(id, STATUS, container), &[]).ok();
    }
    for (id, _, capabilities, no_new_privileges, seccomp) in table {
        cluster
            .wait(&format!("sandbox/{id}"), "phase=Succeeded", LONG)
            .ok();
        let said = said(&cluster, id);
        let status =
            ["CapEff", "NoNewPrivs", "Seccomp"].map(|key| said.get(key).cloned().unwrap_or_default());
        assert_eq!(
            status,
            [capabilities, no_new_privileges, seccomp],
            "{id}: {said:#?}"
        );
    }
    cluster
        .run("policy set extra_capabilities=false unconfined=false")
        .ok();
    cluster
        .apply(&with("late", "true", "cap_add: [SYS_ADMIN]"), &[])
        .fails(1, "cap_add[0]");
}

#[test]
fn seccomp_profile_of_the_node_is_used_and_a_missing_one_is_told() {
    let cluster = Cluster::up(1, &[]);
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;
    let profiles = cluster.dir().join("agent-1/state/profiles");
    std::fs::write(profiles.join("no-folders.json"), profile).expect("written");
    let script = "mkdir /tmp/a || echo refused; touch /tmp/b && echo touched";
    let own = with("own", script, "security_opt: ['seccomp=localhost/no-folders']");
    let missing = with("missing", script, "security_opt: ['seccomp=localhost/nowhere']");
    let apparmor = with("apparmor", script, "security_opt: ['apparmor=localhost/mine']");
    let host = with(
        "host",
        script,
        "security_opt: ['seccomp=localhost/../../etc/passwd']",
    );
    cluster.apply(&host, &[]).fails(3, "security_opt[0]");
    cluster.apply(&[own, missing, apparmor].join("\n---\n"), &[]).ok();
    cluster.wait("sandbox/own", "phase=Succeeded", LONG).ok();
    let said = logs(&cluster, "own");
    assert!(said.contains("refused") && said.contains("touched"), "{said}");
    let has_apparmor = std::path::Path::new("/sys/module/apparmor").exists();
    let told = [("missing", "profiles/nowhere.json"), ("apparmor", "no AppArmor")];
    for (id, part) in told.iter().take(if has_apparmor { 1 } else { 2 }) {
        cluster.wait(&format!("sandbox/{id}"), "phase=Failed", LONG).ok();
        let status = cluster.get("sandbox", id)["status"].clone();
        assert_eq!(status["reason"], "StartFailed", "{status:#}");
        let error = status["last_error"].as_str().unwrap_or_default();
        assert!(error.contains(part), "{error} does not say {part}");
    }
}

#[test]
fn read_only_root_and_tmpfs_are_as_asked_for() {
    let cluster = Cluster::up(1, &[]);
    let script = attempts(&[
        ("root", "touch /file"),
        ("tmp", "touch /tmp/file"),
        ("run", "touch /run/file"),
        ("frozen", "touch /frozen/file"),
        ("run program", "cp /bin/busybox /run/sh && /run/sh -c true"),
        ("tmp program", "cp /bin/busybox /tmp/sh && /tmp/sh -c true"),
    ]);
    let container = "read_only: true
      tmpfs: [{mount_path: /run, options: [size=2m, noexec]}, {mount_path: /frozen, options: [ro]}]";
    cluster.apply(&with("fixed", &script, container), &[]).ok();
    cluster.wait("sandbox/fixed", "phase=Succeeded", LONG).ok();
    let said = said(&cluster, "fixed");
    for (key, wanted) in [
        ("root", "refused"),
        ("tmp", "done"),
        ("run", "done"),
        ("frozen", "refused"),
        ("run program", "refused"),
        ("tmp program", "done"),
    ] {
        assert_eq!(
            said.get(key).map(String::as_str),
            Some(wanted),
            "{key}: {said:#?}"
        );
    }
}

/// Both in one sandbox each, beside a neighbour that must not notice.
#[test]
fn fork_bomb_and_inode_bomb_are_bounded_and_neighbours_go_on() {
    let cluster = Cluster::up(1, &[]);
    let beats = "i=0; while true; do i=$((i+1)); echo $i > /tmp/beat && echo beat $i; sleep 0.1; done";
    cluster.apply(&manifest("neighbour", beats, ""), &["--wait"]).ok();
    let forks = "echo bombing; bomb() { bomb | bomb & bomb; }; bomb 2>/dev/null; sleep 600";
    let inodes = "seq 1 5000 | xargs touch 2>&1 | tail -n 1; cd /tmp; \
                  seq 1 5000 | xargs touch 2>&1 | tail -n 1; ls | wc -l; echo alive";
    cluster.apply(&manifest("forks", forks, ""), &["--wait"]).ok();
    let inodes = manifest("inodes", inodes, "").replace("cpu: 100m", "cpu: '1'");
    cluster.apply(&inodes, &[]).ok();
    await_log(&cluster, "inodes", "alive");
    let said = logs(&cluster, "inodes");
    assert_eq!(said.matches("No space left on device").count(), 2, "{said}");
    assert_eq!(
        cluster.get("sandbox", "inodes")["status"]["containers"][0]["oom_killed"],
        false
    );
    // The bomb has the processes of one container, and the machine all others.
    let count = |line: &str| -> u64 {
        let digits = line.rsplit(' ').next().unwrap_or_default();
        digits.parse().unwrap_or_default()
    };
    let now = cluster.sbxctl(&["logs", "neighbour", "--tail", "1"]).ok();
    let next = count(now.trim()) + 10;
    await_log(&cluster, "neighbour", &format!("beat {next}"));
    cluster.apply(&manifest("late", "echo here", ""), &[]).ok();
    cluster.wait("sandbox/late", "phase=Succeeded", LONG).ok();
    cluster.run("delete sandbox forks --wait").ok();
    assert_eq!(cluster.get("sandbox", "neighbour")["status"]["phase"], "Running");
}
