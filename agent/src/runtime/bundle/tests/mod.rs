//! Tables over the rendered spec, and one golden spec as a whole.

mod runc;

use super::*;
use crate::runtime::user_namespace::IdRange;
use oci_spec::runtime::{Capability, LinuxSeccompAction};
use proto::budget;
use proto::spec::{Manifest, SandboxSpec};
use serde_json::{Value, json};
use std::fs;

/// A sandbox of one container, from the manifest's own text.
fn spec(container: &str) -> SandboxSpec {
    let text = format!(
        "apiVersion: sandboxd.o/v1\nkind: Sandbox\nid: s\nspec:\n  volumes: [{{name: v, ephemeral_storage: 8Mi}}]\n  \
         containers:\n  - {{name: c, image: alpine, resource: {{cpu: 250m, memory: 64Mi}}, {container}}}\n"
    );
    match proto::manifest::parse(&text).expect("a manifest").remove(0) {
        Manifest::Sandbox { spec, .. } => spec,
        other => panic!("{other:?}"),
    }
}

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/entry".to_owned()],
        cmd: vec!["cmd".to_owned()],
        env: vec![
            "PATH=/bin".to_owned(),
            "A=image".to_owned(),
            "B=image".to_owned(),
            "malformed".to_owned(),
        ],
        working_dir: "srv".to_owned(),
        user: String::new(),
    }
}

/// Where everything of a container lies on the host, and what the host can do.
struct Host {
    root: PathBuf,
    cgroup: PathBuf,
    cgroup_namespace: bool,
    swap: bool,
    quota: bool,
    available: Capabilities,
    apparmor: bool,
    local_seccomp: Option<LinuxSeccomp>,
    tmpfs: Vec<PathBuf>,
    volumes: BTreeMap<Name, PathBuf>,
    namespaces: [PathBuf; 3],
    user: Option<UserNamespace>,
    sets_limits: bool,
    etc: [PathBuf; 3],
    /// Who holds the instance that the container is in.
    instance: Option<&'static str>,
}

impl Host {
    fn below(root: &str) -> Self {
        let at = |name: &str| Path::new(root).join(name);
        Self {
            root: PathBuf::from(root),
            cgroup: PathBuf::from("/sandboxd/7/c"),
            cgroup_namespace: true,
            swap: true,
            quota: true,
            // All but CAP_SYS_RESOURCE.
            available: capability::of_bits(0x1ff_feff_ffff),
            apparmor: true,
            local_seccomp: None,
            tmpfs: vec![at("tmpfs-0"), at("tmpfs-1")],
            volumes: BTreeMap::from([(Name::new("v").expect("a name"), at("volumes/v"))]),
            namespaces: ["net", "uts", "ipc"].map(|n| at("ns").join(n)),
            user: None,
            sets_limits: true,
            etc: ["hosts", "hostname", "resolv.conf"].map(|n| at("etc").join(n)),
            instance: None,
        }
    }

    fn render(&self, spec: &SandboxSpec, image: &ImageConfig) -> Result<Spec, BundleError> {
        let (rootfs, tmp, shm) = (
            self.root.join("rootfs"),
            self.root.join("tmp"),
            self.root.join("shm"),
        );
        let [net, uts, ipc] = &self.namespaces;
        let [hosts, host_name, resolv_conf] = &self.etc;
        render(&BundleInput {
            container: &spec.containers[0],
            image,
            user: &User {
                uid: 33,
                gid: 44,
                groups: vec![999],
                home: "/srv/web".to_owned(),
            },
            budget: &budget::container(spec, &spec.containers[0]),
            hostname: "box",
            namespaces: Namespaces {
                net,
                uts,
                ipc,
                user: self.user.as_ref(),
            },
            cgroup: Cgroup {
                path: &self.cgroup,
                namespace: self.cgroup_namespace,
                swap: self.swap,
                quota: self.quota,
            },
            instance: self.instance.map(|holder| Membership {
                holder,
                containers: 2,
            }),
            sources: Sources {
                rootfs: &rootfs,
                tmp: &tmp,
                shm: &shm,
                tmpfs: &self.tmpfs,
                volumes: &self.volumes,
                hosts,
                host_name,
                resolv_conf,
            },
            local_seccomp: self.local_seccomp.as_ref(),
            available: &self.available,
            apparmor: self.apparmor,
            open_files: 20_000,
            sets_limits: self.sets_limits,
        })
    }

    fn json(&self, spec: &SandboxSpec, image: &ImageConfig) -> Value {
        serde_json::to_value(self.render(spec, image).expect("rendered")).expect("JSON")
    }
}

fn rendered(container: &str) -> Result<Value, String> {
    let spec = Host::below("/box")
        .render(&spec(container), &image())
        .map_err(|e| e.to_string())?;
    let mut value = serde_json::to_value(spec).expect("JSON");
    // Sets have no order.
    for set in ["bounding", "effective", "permitted"] {
        let set = value["process"]["capabilities"][set]
            .as_array_mut()
            .expect("a set");
        set.sort_by_key(|c| c.to_string());
    }
    Ok(value)
}

/// What the spec has at `pointer`, a JSON pointer.
#[track_caller]
fn check(container: &str, pointer: &str, want: Value) {
    let spec = rendered(container).expect("rendered");
    assert_eq!(
        spec.pointer(pointer).unwrap_or(&Value::Null),
        &want,
        "{container} at {pointer}"
    );
}

#[track_caller]
fn check_refused(container: &str, why: &str) {
    let error = rendered(container).expect_err("refused");
    assert!(error.contains(why), "{error:?} lacks {why:?}");
}

#[track_caller]
fn check_mount(container: &str, target: &str, source: &str, options: &[&str]) {
    let spec = rendered(container).expect("rendered");
    let mounts = spec["mounts"].as_array().expect("mounts");
    let found: Vec<_> = mounts.iter().filter(|m| m["destination"] == target).collect();
    assert_eq!(found.len(), 1, "mounts at {target}");
    assert_eq!(
        (&found[0]["source"], &found[0]["options"]),
        (&json!(source), &json!(options)),
        "at {target}"
    );
}

#[test]
fn args_replace_entrypoint_and_command() {
    check("", "/process/args", json!(["/entry", "cmd"]));
    check(
        "args: [/bin/sh, -c, x]",
        "/process/args",
        json!(["/bin/sh", "-c", "x"]),
    );
    let nothing = Host::below("/box").render(&spec(""), &ImageConfig::default());
    assert!(matches!(nothing, Err(BundleError::NoCommand { .. })));
}

#[test]
fn environment_of_the_container_overrides_the_images_which_overrides_the_defaults() {
    let own = "env: [A=own, C=own=x, A=last]";
    let want = [
        "PATH=/bin",
        "HOSTNAME=box",
        "HOME=/srv/web",
        "A=last",
        "B=image",
        "C=own=x",
    ];
    check(own, "/process/env", json!(want));
    let spec = Host::below("/box").json(&spec("args: [x]"), &ImageConfig::default());
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(spec["process"]["env"][0], path);
    assert_eq!(spec["process"]["cwd"], "/");
}

#[test]
fn nul_bytes_from_an_image_are_refused() {
    let image = ImageConfig {
        env: vec!["A=\0".to_owned()],
        ..image()
    };
    let result = Host::below("/box").render(&spec(""), &image);
    assert!(
        matches!(
            result,
            Err(BundleError::Nul {
                what: "its environment",
                ..
            })
        ),
        "{result:?}"
    );
}

#[test]
fn process_is_the_user_in_the_folder_that_was_asked_for() {
    check(
        "",
        "/process/user",
        json!({"uid": 33, "gid": 44, "additionalGids": [999]}),
    );
    check("", "/process/cwd", json!("/srv"));
    check("work_dir: /data", "/process/cwd", json!("/data"));
    check("", "/process/terminal", json!(false));
}

#[test]
fn capabilities_are_dockers_with_what_is_added_and_dropped() {
    let names = |names: &[&str]| json!(names.iter().map(|n| format!("CAP_{n}")).collect::<Vec<_>>());
    let at = "/process/capabilities/bounding";
    let default = &proto::policy::DEFAULT_CAPABILITIES[..];
    let mut more = [default, &["SYS_TIME"]].concat();
    more.sort_unstable();
    check("", at, names(default));
    check("", "/process/capabilities/effective", names(default));
    check("", "/process/capabilities/inheritable", json!([]));
    check("", "/process/capabilities/ambient", json!([]));
    check("cap_add: [SYS_TIME]", at, names(&more));
    check("cap_drop: [ALL]", at, json!([]));
    check(
        "cap_drop: [ALL], cap_add: [CHOWN, KILL]",
        at,
        names(&["CHOWN", "KILL"]),
    );
    let fewer: Vec<&str> = default.iter().filter(|c| **c != "MKNOD").copied().collect();
    check("cap_drop: [MKNOD]", at, names(&fewer));
    check("cap_drop: [MKNOD], cap_add: [MKNOD]", at, names(default));
    let all = rendered("cap_add: [ALL], cap_drop: [CHOWN]").expect("rendered");
    let all = all.pointer(at).expect("a set").as_array().expect("a set").clone();
    // 41, without SYS_RESOURCE, which this node does not have, and CHOWN.
    assert_eq!(all.len(), 39);
    assert!(!all.contains(&json!("CAP_CHOWN")) && !all.contains(&json!("CAP_SYS_RESOURCE")));
    check_refused(
        "cap_add: [SYS_RESOURCE]",
        "cannot give the capability SYS_RESOURCE",
    );
}

#[test]
fn available_capabilities_are_those_of_this_process() {
    let available = available_capabilities().expect("read");
    assert!(available.contains(&Capability::SysAdmin), "these tests need root");
    assert_eq!(
        capability::of_bits(1 << 21),
        Capabilities::from([Capability::SysAdmin])
    );
}

#[test]
fn security_options_are_closed_unless_opened() {
    check("", "/process/noNewPrivileges", json!(true));
    check(
        "security_opt: ['no-new-privileges:false']",
        "/process/noNewPrivileges",
        Value::Null,
    );
    check("", "/process/apparmorProfile", Value::Null);
    check(
        "security_opt: [apparmor=localhost/mine]",
        "/process/apparmorProfile",
        json!("mine"),
    );
    check(
        "security_opt: [apparmor=unconfined]",
        "/process/apparmorProfile",
        json!("unconfined"),
    );
    let mut bare = Host::below("/box");
    bare.apparmor = false;
    let refused = bare.render(&spec("security_opt: [apparmor=localhost/mine]"), &image());
    let refused = refused.expect_err("nothing enforces it").to_string();
    assert!(
        refused.contains("no AppArmor") && refused.contains("mine"),
        "{refused}"
    );
    let unconfined = bare.json(&spec("security_opt: [apparmor=unconfined]"), &image());
    assert_eq!(unconfined["process"]["apparmorProfile"], Value::Null);
    check("", "/linux/seccomp/defaultAction", json!("SCMP_ACT_ERRNO"));
    check(
        "security_opt: [seccomp=runtime/default]",
        "/linux/seccomp/defaultAction",
        json!("SCMP_ACT_ERRNO"),
    );
    check(
        "security_opt: [seccomp=unconfined]",
        "/linux/seccomp",
        Value::Null,
    );
    check_refused(
        "security_opt: [seccomp=localhost/mine]",
        "the seccomp profile mine was not loaded",
    );
}

#[test]
fn local_seccomp_profile_is_taken_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let name = |name: &str| Name::new(name).expect("a name");
    fs::write(
        folder.path().join("mine.json"),
        r#"{"defaultAction": "SCMP_ACT_LOG"}"#,
    )
    .expect("written");
    let profile = seccomp::load(folder.path(), &name("mine")).expect("loaded");
    let spec = spec("security_opt: [seccomp=localhost/mine]");
    let host = Host {
        local_seccomp: Some(profile),
        ..Host::below("/box")
    };
    let rendered = host.render(&spec, &image()).expect("rendered");
    let seccomp = rendered
        .linux()
        .as_ref()
        .and_then(|l| l.seccomp().as_ref())
        .expect("a profile");
    assert_eq!(seccomp.default_action(), LinuxSeccompAction::ScmpActLog);

    let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}}]}"#;
    fs::write(folder.path().join("template.json"), text).expect("written");
    let refused = seccomp::load(folder.path(), &name("template"))
        .expect_err("refused")
        .to_string();
    assert!(refused.contains("`includes`"), "{refused}");
    fs::write(folder.path().join("broken.json"), "{").expect("written");
    assert!(seccomp::load(folder.path(), &name("broken")).is_err());
    assert!(seccomp::load(folder.path(), &name("none")).is_err());
}

#[test]
fn seccomp_follows_the_capabilities() {
    let rules = |container: &str, call: &str| {
        let spec = rendered(container).expect("rendered");
        let all = spec["linux"]["seccomp"]["syscalls"]
            .as_array()
            .expect("rules")
            .clone();
        all.into_iter()
            .filter(|r| r["names"].as_array().is_some_and(|n| n.contains(&json!(call))))
            .collect::<Vec<_>>()
    };
    assert!(rules("", "mount").is_empty());
    assert!(rules("", "keyctl").is_empty());
    assert!(rules("", "io_uring_setup").is_empty());
    assert_eq!(rules("", "chroot").len(), 1);
    assert!(rules("cap_drop: [SYS_CHROOT]", "chroot").is_empty());
    assert_eq!(rules("cap_add: [SYS_ADMIN]", "mount").len(), 1);
    let clone = rules("", "clone");
    assert_eq!(
        clone[0]["args"][0],
        json!({"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"})
    );
    assert_eq!(rules("", "clone3")[0]["errnoRet"], 38);
    assert_eq!(
        rules("cap_add: [SYS_ADMIN]", "clone3")[0]["action"],
        "SCMP_ACT_ALLOW"
    );
    let families: Vec<_> = rules("", "socket")
        .iter()
        .map(|r| r["args"][0]["value"].clone())
        .collect();
    assert!(
        !families.contains(&json!(38)) && !families.contains(&json!(40)),
        "{families:?}"
    );
}

#[test]
fn mounts_are_bounded_and_closed() {
    let bound = ["rbind", "rprivate", "rw", "nosuid", "nodev"];
    let file = ["rbind", "rprivate", "ro", "nosuid", "noexec", "nodev"];
    check_mount("", "/tmp", "/box/tmp", &bound);
    check_mount(
        "",
        "/dev/shm",
        "/box/shm",
        &["rbind", "rprivate", "rw", "nosuid", "noexec", "nodev"],
    );
    check_mount(
        "",
        "/dev",
        "tmpfs",
        &["nosuid", "strictatime", "mode=755", "size=64k", "nr_inodes=256"],
    );
    check_mount("", "/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]);
    check_mount(
        "",
        "/sys/fs/cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "ro"],
    );
    check_mount("", "/etc/hosts", "/box/etc/hosts", &file);
    check_mount("", "/etc/hostname", "/box/etc/hostname", &file);
    check_mount("", "/etc/resolv.conf", "/box/etc/resolv.conf", &file);
    check_mount(
        "volume_mounts: [{name: v, mount_path: /data}]",
        "/data",
        "/box/volumes/v",
        &bound,
    );
    let reader = "volume_mounts: [{name: v, mount_path: /data, read_only: true}]";
    check_mount(
        reader,
        "/data",
        "/box/volumes/v",
        &["rbind", "rprivate", "ro", "nosuid", "nodev"],
    );
}

#[test]
fn tmpfs_options_change_dockers_defaults() {
    let two =
        "tmpfs: [{mount_path: /a}, {mount_path: /b, options: [exec, ro, suid, rw, dev, size=1m, mode=700]}]";
    check_mount(
        two,
        "/a",
        "/box/tmpfs-0",
        &["rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"],
    );
    check_mount(
        two,
        "/b",
        "/box/tmpfs-1",
        &["rbind", "rprivate", "rw", "suid", "dev", "exec"],
    );
    let mode = |options: &str| {
        tmpfs_mode(
            &spec(&format!("tmpfs: [{{mount_path: /a, options: [{options}]}}]")).containers[0].tmpfs[0]
                .options,
        )
    };
    assert_eq!(
        (mode(""), mode("mode=700"), mode("mode=700, mode=0755")),
        (0o1777, 0o700, 0o755)
    );
    let three = "tmpfs: [{mount_path: /a}, {mount_path: /b}, {mount_path: /c}]";
    check_refused(three, "no folder was made for its tmpfs at /c");
}

#[test]
fn mounts_lie_behind_what_they_lie_in() {
    let targets = |container: &str| -> Vec<String> {
        let spec = rendered(container).expect("rendered");
        let mounts = spec["mounts"].as_array().expect("mounts");
        mounts[7..]
            .iter()
            .map(|m| m["destination"].as_str().expect("a path").to_owned())
            .collect()
    };
    let nested = "tmpfs: [{mount_path: /data/cache}], volume_mounts: [{name: v, mount_path: /data}]";
    assert_eq!(
        targets(nested),
        [
            "/data",
            "/data/cache",
            "/etc/hostname",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/tmp"
        ]
    );
    let etc = "volume_mounts: [{name: v, mount_path: /etc}]";
    assert_eq!(
        targets(etc),
        ["/etc", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/tmp"]
    );
    let hosts = "volume_mounts: [{name: v, mount_path: /etc/hosts}]";
    check_mount(
        hosts,
        "/etc/hosts",
        "/box/volumes/v",
        &["rbind", "rprivate", "rw", "nosuid", "nodev"],
    );
}

#[test]
fn limits_follow_the_budget() {
    let spec_ = spec("");
    let limit = budget::container(&spec_, &spec_.containers[0]).memory_limit.0;
    check(
        "",
        "/linux/resources/memory",
        json!({"limit": limit, "swap": limit}),
    );
    check("", "/linux/resources/pids/limit", json!(1024));
    check(
        "",
        "/linux/resources/cpu",
        json!({"shares": 256, "quota": 25_000, "period": 100_000}),
    );
    check(
        "",
        "/linux/resources/devices/0",
        json!({"allow": false, "access": "rwm"}),
    );
    let nofile = json!({"type": "RLIMIT_NOFILE", "soft": 20_000, "hard": 20_000});
    check("", "/process/rlimits/0", nofile);
    let without_swap = Host {
        swap: false,
        quota: true,
        ..Host::below("/box")
    }
    .json(&spec_, &image());
    assert_eq!(
        without_swap["linux"]["resources"]["memory"],
        json!({"limit": limit})
    );
}

#[test]
fn cpu_limits_stay_within_the_kernels_bounds() {
    let cpu = |text: &str| {
        let mut spec = spec("");
        spec.containers[0].resource.cpu = proto::units::MilliCpu::parse(text).expect("cpu");
        Host::below("/box").json(&spec, &image())["linux"]["resources"]["cpu"].clone()
    };
    assert_eq!(
        cpu("1m"),
        json!({"shares": 2, "quota": 1_000, "period": 1_000_000})
    );
    assert_eq!(
        cpu("9m"),
        json!({"shares": 9, "quota": 9_000, "period": 1_000_000})
    );
    assert_eq!(
        cpu("10m"),
        json!({"shares": 10, "quota": 1_000, "period": 100_000})
    );
    assert_eq!(
        cpu("500"),
        json!({"shares": 262_144, "quota": 50_000_000, "period": 100_000})
    );
}

#[test]
fn cpu_limit_that_is_left_to_the_monitor_is_not_the_runtimes() {
    let host = Host {
        quota: false,
        ..Host::below("/box")
    };
    let cpu = host.json(&spec(""), &image())["linux"]["resources"]["cpu"].clone();
    assert_eq!(cpu, json!({"shares": 256}));
}

#[test]
fn namespaces_are_the_sandboxes_own() {
    let own = json!([
        {"type": "pid"}, {"type": "mount"},
        {"type": "network", "path": "/box/ns/net"}, {"type": "uts", "path": "/box/ns/uts"},
        {"type": "ipc", "path": "/box/ns/ipc"}, {"type": "cgroup"},
    ]);
    check("", "/linux/namespaces", own);
    let shared = Host {
        cgroup_namespace: false,
        ..Host::below("/box")
    }
    .json(&spec(""), &image());
    assert_eq!(
        shared["linux"]["namespaces"]
            .as_array()
            .expect("namespaces")
            .len(),
        5
    );
    check(
        "read_only: true",
        "/root",
        json!({"path": "/box/rootfs", "readonly": true}),
    );
    check("", "/linux/cgroupsPath", json!("/sandboxd/7/c"));
}

#[test]
fn user_namespace_is_joined_with_its_ids_and_sysctls_are_left_to_who_made_it() {
    let host = Host {
        user: Some(UserNamespace {
            path: "/box/ns/user".into(),
            ids: IdRange::from(1 << 28).expect("a range"),
        }),
        ..Host::below("/box")
    };
    let value = host.json(&spec(""), &image());
    let namespaces = value["linux"]["namespaces"].as_array().expect("a list");
    assert!(namespaces.contains(&json!({"type": "user", "path": "/box/ns/user"})));
    let mapping = json!([{"containerID": 0, "hostID": 268_435_456, "size": 65_536}]);
    for kind in ["uidMappings", "gidMappings"] {
        assert_eq!(value["linux"][kind], mapping);
    }
    assert_eq!(value["linux"]["sysctl"], Value::Null);
    // All else is the same.
    let mut plain = Host::below("/box").json(&spec(""), &image());
    assert_eq!(plain["linux"]["uidMappings"], Value::Null);
    let mut value = value;
    for value in [&mut plain, &mut value] {
        let linux = value["linux"].as_object_mut().expect("an object");
        for key in ["namespaces", "uidMappings", "gidMappings", "sysctl"] {
            linux.remove(key);
        }
        for set in ["bounding", "effective", "permitted"] {
            // Sets have no order.
            value["process"]["capabilities"][set]
                .as_array_mut()
                .expect("a set")
                .sort_by_key(Value::to_string);
        }
    }
    assert_eq!(value, plain);
}

#[test]
fn volume_without_a_source_is_refused() {
    let mut host = Host::below("/box");
    host.volumes.clear();
    let spec = spec("volume_mounts: [{name: v, mount_path: /data}]");
    let result = host.render(&spec, &image());
    assert!(matches!(result, Err(BundleError::NoVolume { .. })), "{result:?}");
}

/// The whole spec, so that nothing changes unseen. `UPDATE_GOLDEN=1` writes it anew.
#[test]
fn whole_spec_is_as_it_was() {
    let container = "args: [/bin/app], env: [A=1], read_only: true, cap_drop: [ALL], cap_add: [NET_BIND_SERVICE], \
                     volume_mounts: [{name: v, mount_path: /data}], tmpfs: [{mount_path: /run, options: [size=1m]}]";
    let mut spec = rendered(container).expect("rendered");
    // The architecture's own calls differ; their table has tests of its own.
    let calls = spec["linux"]["seccomp"]["syscalls"]
        .as_array_mut()
        .expect("rules");
    calls.retain(|rule| rule["names"] != json!(["arch_prctl", "modify_ldt"]));
    spec["linux"]["seccomp"]["architectures"] = json!([]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/runtime/bundle/golden.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(
            &path,
            format!("{}\n", serde_json::to_string_pretty(&spec).expect("JSON")),
        )
        .expect("written");
    }
    let golden: Value = serde_json::from_slice(&fs::read(&path).expect("the golden file")).expect("JSON");
    assert_eq!(
        spec,
        golden,
        "the rendered spec has changed; see {}",
        path.display()
    );
}

#[test]
fn container_of_an_instance_is_limited_by_it_and_counts_processes_itself() {
    let host = Host {
        instance: Some("_instance"),
        ..Host::below("/box")
    };
    let member = host.json(&spec(""), &image());
    assert_eq!(
        member["annotations"],
        serde_json::json!({
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": "_instance",
        })
    );
    assert_eq!(member["linux"]["cgroupsPath"], Value::Null);
    let limits = member["process"]["rlimits"].as_array().expect("limits");
    let processes = limits.iter().find(|limit| limit["type"] == "RLIMIT_NPROC");
    assert_eq!(processes.expect("of processes")["hard"], 2_048);
}

#[test]
fn instance_is_limited_for_all_of_its_containers() {
    let host = Host::below("/box");
    let sandbox = spec("");
    let [net, uts, ipc] = &host.namespaces;
    let rendered = render_instance(&InstanceInput {
        spec: &sandbox,
        hostname: "box",
        namespaces: Namespaces {
            net,
            uts,
            ipc,
            user: None,
        },
        cgroup: Cgroup {
            path: Path::new("/sandboxd/7/instance"),
            namespace: true,
            swap: true,
            quota: true,
        },
        rootfs: Path::new("/box/instance/rootfs"),
        program: "/idle",
    });
    let instance = serde_json::to_value(rendered.expect("rendered")).expect("JSON");
    assert_eq!(
        instance["annotations"]["io.kubernetes.cri.container-type"],
        "sandbox"
    );
    assert_eq!(instance["linux"]["cgroupsPath"], "/sandboxd/7/instance");
    let demand = budget::demand_on(&sandbox, Some(proto::spec::Runtime::Runsc));
    let limits = &instance["linux"]["resources"];
    assert_eq!(limits["memory"]["limit"], demand.memory.0);
    assert_eq!(limits["memory"]["swap"], demand.memory.0);
    assert_eq!(limits["cpu"]["quota"], demand.cpu.0 * 100);
    assert_eq!(instance["root"]["readonly"], true);
    assert_eq!(instance["process"]["args"], serde_json::json!(["/idle"]));
}
