fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "v1/types.proto",
        "v1/control.proto",
        "v1/agent.proto",
        "v1/raft.proto",
        "v1/ledger.proto",
        "v1/monitor.proto",
        "v1/image.proto",
        "v1/relay.proto",
    ];
    tonic_prost_build::configure()
        // Ordered maps: what is stored must have one encoding.
        .btree_map(".")
        .compile_protos(&files, &["."])?;
    Ok(())
}
