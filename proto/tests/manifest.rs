//! Every rule of the contract that one manifest can be judged by, good and bad.

use proto::manifest::parse;
use proto::spec::{Manifest, SandboxSpec};

/// A sandbox whose spec is `spec`, two spaces deep.
fn sandbox(spec: &str) -> String {
    format!("apiVersion: sandboxd.o/v1\nkind: Sandbox\nid: s\nspec:\n{spec}")
}

const CONTAINERS: &str = "  containers:\n    - {name: c, image: alpine, resource: {cpu: 1, memory: 1Mi}}\n";

/// `spec` with one plain container.
fn with_container(spec: &str) -> String {
    sandbox(&format!("{spec}{CONTAINERS}"))
}

/// A sandbox with two volumes whose only container has the fields `more`, in flow style.
fn container(more: &str) -> String {
    sandbox(&format!(
        "  volumes: [{{name: v, ephemeral_storage: 1Mi}}, {{name: w, ephemeral_storage: 1Mi}}]\n  containers:\n    - \
         {{name: c, image: alpine, resource: {{cpu: 1, memory: 1Mi}}, {more}}}\n"
    ))
}

#[track_caller]
fn check(text: &str, want: Result<(), &[&str]>) {
    match (parse(text), want) {
        (Ok(_), Ok(())) => {}
        (Ok(got), Err(want)) => panic!("accepted, expected {want:?}:\n{text}\n{got:#?}"),
        (Err(faults), Ok(())) => panic!("refused:\n{text}\n{faults}"),
        (Err(faults), Err(want)) => {
            let got: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
            assert_eq!(got, want, "in\n{text}");
        }
    }
}

#[track_caller]
fn good(text: &str) -> SandboxSpec {
    match parse(text) {
        Ok(manifests) => match manifests.into_iter().next() {
            Some(Manifest::Sandbox { spec, .. }) => spec,
            other => panic!("not a sandbox: {other:?}"),
        },
        Err(faults) => panic!("refused:\n{text}\n{faults}"),
    }
}

#[track_caller]
fn bad(text: &str, want: &[&str]) {
    check(text, Err(want));
}

#[test]
fn examples_of_the_repository_are_valid() {
    for entry in std::fs::read_dir("../examples").expect("examples") {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        if let Err(faults) = parse(&text) {
            panic!("{}:\n{faults}", path.display());
        }
    }
}

#[test]
fn json_is_accepted() {
    good(
        r#"{"apiVersion": "sandboxd.o/v1", "kind": "Sandbox", "id": "s", "spec": {"containers":
        [{"name": "c", "image": "alpine", "resource": {"cpu": "1", "memory": 1048576}}]}}"#,
    );
}

#[test]
fn defaults_are_the_contracts() {
    let spec = good(&with_container(""));
    assert!(!spec.egress);
    assert_eq!(spec.ttl_seconds, 0);
    assert_eq!(spec.priority, 0);
    assert_eq!(spec.runtime, None);
    assert_eq!(spec.on_node_loss, proto::spec::OnNodeLoss::Fail);
    assert_eq!(spec.containers[0].image, "docker.io/library/alpine:latest");
    assert_eq!(spec.containers[0].resource.ephemeral_storage.to_string(), "128Mi");
    assert!(!spec.containers[0].read_only);
}

#[test]
fn unknown_field_is_named_with_a_guess() {
    bad(
        &container("volume_mount: []"),
        &["spec.containers[0].volume_mount: unknown field, did you mean volume_mounts?"],
    );
    bad(&with_container("  zzz: 1\n"), &["spec.zzz: unknown field"]);
    bad(
        "apiVersion: sandboxd.o/v1\nkind: Node\nid: n\nmetadata: {label: {}}\n",
        &["metadata.label: unknown field, did you mean labels?"],
    );
    bad(
        "apiVersion: sandboxd.o/v1\nkind: Node\nid: n\nspec: {unschedulabel: true}\n",
        &["spec.unschedulabel: unknown field, did you mean unschedulable?"],
    );
}

#[test]
fn all_faults_are_told_together() {
    bad(
        "apiVersion: v1\nkind: Sandbox\nid: ..\nspec:\n  egress: maybe\n  ttl_seconds: -1\n  ports: [{container_port: 0}]\n  \
         volumes: [{name: v}]\n  containers:\n    - {name: c, image: UPPER, resource: {cpu: 0, memory: 1X}}\n",
        &[
            "apiVersion: `v1` is not known: write sandboxd.o/v1",
            "id: must begin with a letter or digit and contain only letters, digits, '_', '.' and '-'",
            "spec.egress: must be true or false, not `maybe`",
            "spec.ttl_seconds: must be at least 0, not -1",
            "spec.ports[0].container_port: must be between 1 and 65535, not 0",
            "spec.volumes[0].ephemeral_storage: required",
            "spec.containers[0].image: `UPPER` is not an image reference: a name has lower-case letters and digits, \
             with '.', '_', '__' or '-' between them",
            "spec.containers[0].resource.cpu: must be greater than 0",
            "spec.containers[0].resource.memory: `1X` is not a size: write bytes, or a number with Ki, Mi, Gi, Ti, k, M, \
             G or T, such as 128Mi",
        ],
    );
}

#[test]
fn documents_are_numbered() {
    let node = |id: &str| format!("apiVersion: sandboxd.o/v1\nkind: Node\nid: {id}\n");
    assert_eq!(
        parse(&format!("---\n{}---\n{}---\n", node("a"), node("b")))
            .expect("valid")
            .len(),
        2
    );
    bad(
        &format!("{}---\n{}", node("a"), node("b/c")),
        &[
            "document 2: id: must begin with a letter or digit and contain only letters, digits, '_', '.' and '-'",
        ],
    );
    bad(
        &format!("{}---\n{}", node("a"), node("a")),
        &["document 2: id: a second Node `a` in one file"],
    );
    bad("", &["no document: begin with apiVersion: sandboxd.o/v1"]);
    bad("- 1\n", &["must be a mapping of fields, not a list"]);
    let faults = parse("a: [1\n").expect_err("malformed");
    assert!(faults.to_string().starts_with("not valid YAML: "), "{faults}");
    let faults = parse("a: 1\na: 2\n").expect_err("duplicate");
    assert!(faults.to_string().contains("duplicate entry"), "{faults}");
}

#[test]
fn kind_and_id_follow_their_rules() {
    bad(
        "apiVersion: sandboxd.o/v1\nkind: Sandboxx\nid: a\nspec: {}\n",
        &["kind: `Sandboxx` is not a kind (Sandbox, Node, External), did you mean Sandbox?"],
    );
    bad("apiVersion: sandboxd.o/v1\nkind: Node\n", &["id: required"]);
    bad("kind: Node\nid: a\n", &["apiVersion: required"]);
    for (id, why) in [
        ("''", "must not be empty"),
        ("a..b", "must not contain '..'"),
        (
            "_a",
            "must begin with a letter or digit and contain only letters, digits, '_', '.' and '-'",
        ),
        ("7", "must be a string: write \"7\""),
        (
            &"a".repeat(129),
            "is 129 characters long, at most 128 are allowed",
        ),
    ] {
        bad(
            &format!("apiVersion: sandboxd.o/v1\nkind: Node\nid: {id}\n"),
            &[&format!("id: {why}")],
        );
    }
    check(
        &format!("apiVersion: sandboxd.o/v1\nkind: Node\nid: {}\n", "a".repeat(128)),
        Ok(()),
    );
}

#[test]
fn labels_follow_the_kubernetes_syntax() {
    let node = |labels: &str| {
        format!("apiVersion: sandboxd.o/v1\nkind: Node\nid: n\nmetadata: {{labels: {{{labels}}}}}\n")
    };
    check(&node("a: b, example.org/team: red_1, empty: ''"), Ok(()));
    bad(
        &node("a: 1"),
        &["metadata.labels.a: must be a string: write \"1\""],
    );
    let rule = "at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit";
    bad(
        &node("-a: b"),
        &[&format!("metadata.labels.-a: `-a` is not a label key: {rule}")],
    );
    bad(
        &node("a: b-"),
        &[&format!("metadata.labels.a: `b-` is not a label value: {rule}")],
    );
    bad(
        &node("UP/a: b"),
        &["metadata.labels.UP/a: the prefix of the key `UP/a` is not a DNS name"],
    );
}

#[test]
fn ports_and_probes_agree() {
    let probe = |fields: &str| {
        with_container(&format!(
            "  ports: [{{container_port: 80}}]\n  readiness_probe: {{{fields}}}\n"
        ))
    };
    let periods = "initial_delay_seconds: 0, period_seconds: 1, timeout_seconds: 1, success_threshold: 1, failure_threshold: 1";
    good(&probe(&format!("protocol: tcp, port: 80, {periods}")));
    good(&probe(&format!("protocol: http, path: /x, port: 80, {periods}")));
    bad(
        &probe(&format!("protocol: tcp, port: 81, {periods}")),
        &["spec.readiness_probe.port: 81 is not among the declared ports"],
    );
    bad(
        &probe(&format!("protocol: http, port: 80, {periods}")),
        &["spec.readiness_probe.path: required"],
    );
    bad(
        &probe(&format!("protocol: http, path: x, port: 80, {periods}")),
        &["spec.readiness_probe.path: `x` must start with /"],
    );
    bad(
        &probe(&format!("protocol: grpc, port: 80, {periods}")),
        &["spec.readiness_probe.protocol: `grpc` is not a probe's protocol: tcp or http"],
    );
    bad(
        &probe("protocol: tcp, port: 80"),
        &[
            "spec.readiness_probe.initial_delay_seconds: required",
            "spec.readiness_probe.period_seconds: required",
            "spec.readiness_probe.timeout_seconds: required",
            "spec.readiness_probe.success_threshold: required",
            "spec.readiness_probe.failure_threshold: required",
        ],
    );
    bad(
        &probe(&format!(
            "protocol: tcp, port: 80, {}",
            periods.replace("period_seconds: 1", "period_seconds: 0")
        )),
        &["spec.readiness_probe.period_seconds: must be between 1 and 4294967295, not 0"],
    );
}

#[test]
fn port_of_each_protocol_is_one() {
    good(&with_container(
        "  ports: [{container_port: 53}, {container_port: 53, protocol: udp}]\n",
    ));
    good(&with_container("  ports: [{container_port: 53, host_port: 1}]\n"));
    bad(
        &with_container("  ports: [{container_port: 53}, {container_port: 53, protocol: tcp}]\n"),
        &["spec.ports[1]: `53/tcp` is the port of an earlier one as well"],
    );
    bad(
        &with_container("  ports: [{container_port: 70000, protocol: sctp}]\n"),
        &[
            "spec.ports[0].container_port: must be between 1 and 65535, not 70000",
            "spec.ports[0].protocol: `sctp` is not a protocol: tcp or udp",
        ],
    );
}

#[test]
fn volumes_are_unique_sized_and_declared() {
    bad(
        &with_container("  volumes: [{name: v, ephemeral_storage: 1Mi}, {name: v, ephemeral_storage: 0}]\n"),
        &["spec.volumes[1].ephemeral_storage: must be greater than 0"],
    );
    bad(
        &with_container(
            "  volumes: [{name: v, ephemeral_storage: 1Mi}, {name: v, ephemeral_storage: 1Mi}]\n",
        ),
        &["spec.volumes[1].name: `v` is the name of an earlier one as well"],
    );
    bad(
        &container("volume_mounts: [{name: x, mount_path: /x}]"),
        &["spec.containers[0].volume_mounts[0].name: there is no volume `x` (declared: v, w)"],
    );
    good(&container(
        "volume_mounts: [{name: v, mount_path: /a}, {name: v, mount_path: /b, read_only: true}]",
    ));
}

#[test]
fn mount_paths_follow_their_rules() {
    let mount = |path: &str| container(&format!("volume_mounts: [{{name: v, mount_path: '{path}'}}]"));
    for path in [
        "/srv", "/a/b", "/tmpfoo", "/process", "/device", "/.hidden", "/a..b",
    ] {
        good(&mount(path));
    }
    let at = "spec.containers[0].volume_mounts[0].mount_path: ";
    let unclean = "must not contain `.`, `..`, `//` or a trailing `/`";
    for (path, why) in [
        ("srv", "`srv` must be absolute".to_owned()),
        ("/", "must not be the root of the filesystem".to_owned()),
        ("/a/", format!("`/a/` {unclean}")),
        ("/a//b", format!("`/a//b` {unclean}")),
        ("/a/./b", format!("`/a/./b` {unclean}")),
        ("/a/../b", format!("`/a/../b` {unclean}")),
        (
            "/tmp",
            "`/tmp`: /tmp is the sandbox's own scratch space and can't be mounted over".to_owned(),
        ),
        (
            "/tmp/x",
            "`/tmp/x`: /tmp is the sandbox's own scratch space and can't be mounted over".to_owned(),
        ),
        (
            "/proc/1",
            "`/proc/1`: /proc belongs to the kernel's interfaces and can't be mounted over".to_owned(),
        ),
        (
            "/sys",
            "`/sys`: /sys belongs to the kernel's interfaces and can't be mounted over".to_owned(),
        ),
        (
            "/dev/x",
            "`/dev/x`: /dev belongs to the kernel's interfaces and can't be mounted over".to_owned(),
        ),
    ] {
        bad(&mount(path), &[&format!("{at}{why}")]);
    }
    bad(
        &container("volume_mounts: [{name: v, mount_path: /a}], tmpfs: [{mount_path: /a}]"),
        &["spec.containers[0].tmpfs[0].mount_path: `/a` is the mount path of an earlier one as well"],
    );
}

#[test]
fn tmpfs_options_are_known_ones() {
    let tmpfs = |options: &str| container(&format!("tmpfs: [{{mount_path: /x, options: [{options}]}}]"));
    let spec = good(&tmpfs("rw, nosuid, nodev, noexec, mode=1777, size=64m"));
    assert_eq!(
        spec.containers[0].tmpfs[0].options.size.map(|s| s.to_string()),
        Some("64Mi".to_owned())
    );
    assert_eq!(good(&tmpfs("ro")).containers[0].tmpfs[0].options.size, None);
    for (size, bytes) in [
        ("1024", 1024),
        ("1k", 1024),
        ("1Ki", 1024),
        ("2g", 2 << 30),
        ("2Gi", 2 << 30),
    ] {
        let spec = good(&tmpfs(&format!("size={size}")));
        assert_eq!(
            spec.containers[0].tmpfs[0].options.size.map(|s| s.0),
            Some(bytes),
            "{size}"
        );
    }
    let at = "spec.containers[0].tmpfs[0].options: ";
    let size = "is not a size above 0 such as size=64m or size=64Mi";
    bad(&tmpfs("size=0"), &[&format!("{at}`size=0` {size}")]);
    bad(&tmpfs("size=50%"), &[&format!("{at}`size=50%` {size}")]);
    bad(
        &tmpfs("mode=9"),
        &[&format!("{at}`mode=9` is not an octal mode such as mode=1777")],
    );
    bad(
        &tmpfs("sync"),
        &[&format!(
            "{at}`sync` is not an option of a tmpfs: ro rw nosuid suid nodev dev noexec exec mode= size="
        )],
    );
    bad(
        &tmpfs("uid=0"),
        &[&format!(
            "{at}`uid=0` is not an option of a tmpfs: only mode= and size= take a value"
        )],
    );
}

#[test]
fn environment_and_directory_follow_their_rules() {
    good(&container("env: [A=1, B=, 'C=x=y'], work_dir: /srv"));
    bad(
        &container("env: [A]"),
        &["spec.containers[0].env[0]: `A` must be KEY=VALUE"],
    );
    bad(
        &container("env: ['=1']"),
        &["spec.containers[0].env[0]: `=1` has no name before the `=`"],
    );
    bad(
        &container("work_dir: srv"),
        &["spec.containers[0].work_dir: `srv` must be absolute"],
    );
    bad(
        &container("args: [1]"),
        &["spec.containers[0].args[0]: must be a string: write \"1\""],
    );
}

#[test]
fn capabilities_and_options_are_known_ones() {
    let spec = good(&container("cap_add: [cap_net_admin], cap_drop: [ALL]"));
    assert_eq!(spec.containers[0].cap_add, ["NET_ADMIN"]);
    bad(
        &container("cap_add: [NET_ADMINN]"),
        &["spec.containers[0].cap_add[0]: `NET_ADMINN` is not a capability, did you mean NET_ADMIN?"],
    );
    for option in [
        "no-new-privileges:true",
        "seccomp=runtime/default",
        "seccomp=unconfined",
        "seccomp=localhost/strict.json",
        "apparmor=localhost/p",
    ] {
        let spec = good(&container(&format!("security_opt: ['{option}']")));
        assert_eq!(spec.containers[0].security_opt[0].to_string(), option);
    }
    bad(
        &container("security_opt: ['seccomp=localhost/../../etc/shadow']"),
        &[
            "spec.containers[0].security_opt[0]: `seccomp=localhost/../../etc/shadow`: the name of a profile must begin \
           with a letter or digit and contain only letters, digits, '_', '.' and '-'; it is a name, never a path",
        ],
    );
    bad(
        &container("security_opt: ['seccomp=/etc/passwd']"),
        &[
            "spec.containers[0].security_opt[0]: `seccomp=/etc/passwd`: the profile must be runtime/default, unconfined \
           or localhost/<name>",
        ],
    );
}

#[test]
fn containers_are_there_and_unique() {
    bad(
        &sandbox("  containers: []\n"),
        &["spec.containers: at least one is required"],
    );
    bad(&sandbox("  egress: true\n"), &["spec.containers: required"]);
    bad(
        &with_container("").replace(
            "    - {",
            "    - {name: c, image: a, resource: {cpu: 1, memory: 1}}\n    - {",
        ),
        &["spec.containers[1].name: `c` is the name of an earlier one as well"],
    );
    bad(
        &sandbox("  containers: [{name: c, image: alpine}]\n"),
        &["spec.containers[0].resource: required"],
    );
}

#[test]
fn egress_rules_are_blocks_with_ports() {
    let egress = |rule: &str| with_container(&format!("  egress_allow: ['{rule}']\n"));
    for (rule, shown) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("192.0.2.0/24:443/tcp", "192.0.2.0/24:443/tcp"),
        ("0.0.0.0/0:53/udp", "0.0.0.0/0:53/udp"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("[2001:db8::/32]:443/tcp", "[2001:db8::/32]:443/tcp"),
    ] {
        assert_eq!(good(&egress(rule)).egress_allow[0].to_string(), shown);
    }
    let at = "spec.egress_allow[0]: ";
    for (rule, why) in [
        (
            "10.0.0.1/8",
            "`10.0.0.1/8` has bits behind its prefix, did you mean 10.0.0.0/8?",
        ),
        (
            "10.0.0.0/33",
            "`10.0.0.0/33` is not an address block such as 192.0.2.0/24",
        ),
        (
            "example.org",
            "`example.org` is not an address block such as 192.0.2.0/24",
        ),
        ("10.0.0.0/8:443", "`10.0.0.0/8:443`: write the port as 443/tcp"),
        (
            "10.0.0.0/8:0/tcp",
            "`10.0.0.0/8:0/tcp`: the port must be between 1 and 65535",
        ),
        ("[2001:db8::/32", "`[2001:db8::/32` lacks a `]`"),
    ] {
        bad(&egress(rule), &[&format!("{at}{why}")]);
    }
}

#[test]
fn single_choices_are_named() {
    good(&with_container(
        "  runtime: runsc\n  on_node_loss: reschedule\n  priority: -5\n",
    ));
    bad(
        &with_container("  runtime: docker\n"),
        &["spec.runtime: `docker` is not a runtime: native, runc, crun or runsc"],
    );
    bad(
        &with_container("  on_node_loss: ignore\n"),
        &["spec.on_node_loss: `ignore` is not known: fail or reschedule"],
    );
}

#[test]
fn node_addresses_are_of_one_machine() {
    let node = |ip: &str| {
        format!("apiVersion: sandboxd.o/v1\nkind: Node\nid: n\nspec: {{ip: '{ip}', port: 7000}}\n")
    };
    check(&node("192.0.2.7"), Ok(()));
    check(&node("2001:db8::1"), Ok(()));
    for (ip, kind) in [
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
    ] {
        bad(
            &node(ip),
            &[&format!(
                "spec.ip: `{ip}` is {kind}: a node needs an address of its own"
            )],
        );
    }
    bad(&node("host"), &["spec.ip: `host` is not an IP address"]);
}

#[test]
fn external_names_its_node() {
    let external = |spec: &str| format!("apiVersion: sandboxd.o/v1\nkind: External\nid: e\nspec: {spec}\n");
    check(&external("{node_id: n, external: ctf.example.org}"), Ok(()));
    bad(
        &external("{}"),
        &["spec.node_id: required", "spec.external: required"],
    );
    bad(
        &external("{node_id: n, external: 'a b'}"),
        &["spec.external: must be a host name or address of 1 to 253 characters"],
    );
}

/// A fault in the list of volumes must not be told again as an undeclared volume.
#[test]
fn consequences_of_a_fault_are_not_told() {
    bad(
        &sandbox(
            "  volumes: [{name: v}]\n  containers:\n    - {name: c, image: alpine, resource: {cpu: 1, memory: 1Mi}, \
             volume_mounts: [{name: v, mount_path: /v}]}\n",
        ),
        &["spec.volumes[0].ephemeral_storage: required"],
    );
}
