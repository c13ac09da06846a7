//! What is made of specs, and what is refused.

use super::plan::{HostIds, MountSource, Plan};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use serde_json::{Value, json};
use std::path::Path;

fn spec() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "/box/rootfs", "readonly": true},
        "process": {
            "user": {"uid": 33, "gid": 34, "additionalGids": [44]}, "args": ["server"], "cwd": "/srv",
            "env": ["PATH=/bin", "A=1"], "noNewPrivileges": true,
            "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
        },
        "mounts": [
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "size=64k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "gid=5"]},
            {"destination": "/v", "type": "bind", "source": "/box/v", "options": ["rbind", "rprivate", "ro", "rw", "nodev"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
        ],
        "linux": {
            "cgroupsPath": "/sandboxd/7/c-a",
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}, {"type": "network", "path": "/ns/net"},
                {"type": "uts", "path": "/ns/uts"}, {"type": "ipc", "path": "/ns/ipc"},
            ],
            "resources": {
                "memory": {"limit": 1048576}, "pids": {"limit": 10}, "cpu": {"shares": 512, "quota": 50000, "period": 100000},
                "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}],
            },
            "sysctl": {"net.b": "2", "net.a": "1"},
            "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"],
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_LOG"]},
        },
    })
}

fn plan(spec: Value) -> Result<Plan, String> {
    let spec = serde_json::from_value(spec).map_err(|fault| fault.to_string())?;
    Plan::of(&spec).map_err(|fault| fault.to_string())
}

#[test]
fn plan_says_what_the_spec_does() {
    let plan = plan(spec()).expect("a plan");
    assert!(plan.is_read_only && plan.own_cgroup_namespace && plan.user.is_none());
    let kinds = [
        CloneFlags::CLONE_NEWNET,
        CloneFlags::CLONE_NEWUTS,
        CloneFlags::CLONE_NEWIPC,
    ];
    assert_eq!(
        plan.joined.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
        kinds
    );
    assert_eq!(
        plan.sysctls,
        [("net.a", "1"), ("net.b", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()))
    );
    assert_eq!(plan.filter, Some(2));
    assert_eq!(plan.limits.cpu.quota, Some((50_000, 100_000)));
    assert_eq!(plan.limits.devices.len(), 1);
    assert_eq!(plan.process.search_path(), "/bin");
    let [dev, pts, volume, cgroup] = plan.mounts.as_slice() else {
        panic!("{:?}", plan.mounts);
    };
    let filesystem = |kind: &str, flags, options: &str| MountSource::Filesystem {
        kind: kind.to_owned(),
        flags,
        options: options.to_owned(),
    };
    assert_eq!(
        dev.source,
        filesystem("tmpfs", MsFlags::MS_STRICTATIME, "size=64k,uid=0,gid=0")
    );
    assert_eq!(pts.source, filesystem("devpts", MsFlags::empty(), "gid=5"));
    // The last of contradicting ones counts.
    assert_eq!(volume.restrictions.set, libc::MOUNT_ATTR_NODEV);
    assert_eq!(volume.restrictions.clear, libc::MOUNT_ATTR_RDONLY);
    assert_eq!(cgroup.source, MountSource::Cgroup);
}

#[test]
fn ids_of_a_user_namespace_are_those_of_the_host() {
    let mut spec = spec();
    let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.push(json!({"type": "user", "path": "/ns/user"}));
    for mappings in ["uidMappings", "gidMappings"] {
        spec["linux"][mappings] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    }
    let plan = plan(spec).expect("a plan");
    let user = plan.user.as_ref().expect("one");
    assert_eq!(user.path, Path::new("/ns/user"));
    assert_eq!(
        plan.ids(),
        HostIds {
            uid: 100_000,
            gid: 100_000
        }
    );
    let options = |at: usize| match &plan.mounts[at].source {
        MountSource::Filesystem { options, .. } => options.as_str(),
        other => panic!("{other:?}"),
    };
    assert_eq!(options(0), "size=64k,uid=100000,gid=100000");
    assert_eq!(options(1), "gid=100005");
}

#[test]
fn what_is_not_known_is_refused() {
    #[track_caller]
    fn check(pointer: &str, value: Value, want: &str) {
        let mut spec = spec();
        *spec.pointer_mut(pointer).expect("a place") = value;
        let refused = plan(spec).map(drop).expect_err("refused");
        assert!(refused.contains(want), "{pointer}: {refused}");
    }
    check(
        "/linux/namespaces/0",
        json!({"type": "pid", "path": "/x"}),
        "namespace",
    );
    check(
        "/linux/namespaces/0",
        json!({"type": "mount"}),
        "without a pid namespace",
    );
    check("/linux/namespaces/3", json!({"type": "time"}), "namespace");
    check(
        "/linux/namespaces/3",
        json!({"type": "user", "path": "/x"}),
        "mappings",
    );
    check("/mounts/0/type", json!("nfs"), "`nfs`");
    check("/mounts/2/options/1", json!("odd"), "`odd`");
    check("/mounts/3/options/0", json!("odd"), "`odd`");
    check("/linux/resources/memory", json!({}), "memory limit");
    check("/linux/resources/devices/1/access", json!("r"), "device rule");
    check(
        "/linux/resources/cpu/period",
        Value::Null,
        "quota with its period",
    );
    check("/process/args", json!([]), "no program");
    check("/process/rlimits/0/type", json!("RLIMIT_STACK"), "limit");
    check(
        "/linux/seccomp/flags/0",
        json!("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"),
        "seccomp flag",
    );
}
