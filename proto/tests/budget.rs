//! What a sandbox may use at most: the sums of the contract.

use proto::budget::{TmpfsLimit, container, demand, split_writable};
use proto::manifest::parse;
use proto::spec::{Manifest, SandboxSpec};
use proto::units::{Bytes, MIB, MilliCpu};

fn spec(spec: &str) -> SandboxSpec {
    let text = format!("apiVersion: sandboxd.o/v1\nkind: Sandbox\nid: s\nspec: {spec}\n");
    match parse(&text).expect("valid").remove(0) {
        Manifest::Sandbox { spec, .. } => spec,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check_split(total_mib: u64, root: u64, tmp: u64) {
    assert_eq!(
        split_writable(Bytes::mib(total_mib)),
        (Bytes(root), Bytes(tmp)),
        "{total_mib}"
    );
}

#[test]
fn writable_budget_is_split_four_to_one_with_floors() {
    check_split(100, 80 * MIB, 20 * MIB);
    check_split(80, 64 * MIB, 16 * MIB);
    check_split(48, 32 * MIB, 16 * MIB);
    check_split(50, 34 * MIB, 16 * MIB);
    check_split(40, 32 * MIB, 8 * MIB);
    check_split(10, 8 * MIB, 2 * MIB);
}

#[test]
fn tmpfs_has_whole_pages_and_bounded_inodes() {
    assert_eq!(TmpfsLimit::of(Bytes(1)).size, Bytes(4096));
    assert_eq!(TmpfsLimit::of(Bytes(8191)).size, Bytes(4096));
    assert_eq!(TmpfsLimit::of(Bytes::mib(1)).inodes, 1024);
    assert_eq!(TmpfsLimit::of(Bytes::mib(128)).inodes, 8192);
    assert_eq!(TmpfsLimit::of(Bytes(1 << 50)).inodes, 1 << 20);
}

/// A container that fills everything it may write to must stay below its limit.
#[test]
fn container_limit_covers_every_budget_it_may_write_to() {
    let spec = spec(
        "{volumes: [{name: v, ephemeral_storage: 64Mi}, {name: w, ephemeral_storage: 32Mi}], containers: [
           {name: a, image: x, resource: {cpu: 100m, memory: 16Mi, ephemeral_storage: 100Mi},
            tmpfs: [{mount_path: /x, options: [size=8Mi]}, {mount_path: /y}],
            volume_mounts: [{name: v, mount_path: /v}, {name: w, mount_path: /w, read_only: true}]},
           {name: b, image: x, read_only: true, resource: {cpu: 1, memory: 16Mi, ephemeral_storage: 100Mi}}]}",
    );
    let limit = |mib: u64| TmpfsLimit::of(Bytes::mib(mib)).memory();
    let overhead = Bytes::mib(2);
    let a = container(&spec, &spec.containers[0]);
    assert_eq!(
        a.memory_limit,
        Bytes::mib(16) + limit(80) + limit(20) + limit(8) + limit(64) + overhead
    );
    assert_eq!(a.tmpfs, [Some(TmpfsLimit::of(Bytes::mib(8))), None]);
    let b = container(&spec, &spec.containers[1]);
    assert_eq!(b.root, None);
    assert_eq!(b.memory_limit, Bytes::mib(16) + limit(20) + overhead);

    // Each tmpfs once, although both volumes and two containers are there.
    let all = limit(80) + limit(20) + limit(8) + limit(20) + limit(64) + limit(32);
    let demand = demand(&spec);
    assert_eq!(demand.memory, Bytes::mib(32) + all + overhead + overhead);
    assert_eq!(demand.cpu, MilliCpu(1100));
}

/// An instance of a kernel of its own is memory as well.
#[test]
fn gvisor_is_counted_once_and_for_each_container() {
    let of = |runtime: &str| {
        let containers = "{name: a, image: x, resource: {cpu: 1, memory: 16Mi}}, \
                          {name: b, image: x, resource: {cpu: 1, memory: 16Mi}}";
        demand(&spec(&format!("{{{runtime}containers: [{containers}]}}")))
    };
    let plain = of("");
    assert_eq!(of("runtime: native, "), plain);
    assert_eq!(of("runtime: runc, "), plain);
    let gvisor = of("runtime: runsc, ");
    assert_eq!(gvisor.memory, plain.memory + Bytes::mib(48 + 2 * 12));
    assert_eq!(gvisor.cpu, plain.cpu);
}
