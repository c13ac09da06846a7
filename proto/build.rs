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
        "v1/access.proto",
        "v1/cluster.proto",
    ];
    let descriptors = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    tonic_prost_build::configure()
        .file_descriptor_set_path(descriptors)
        // Ordered maps: what is stored must have one encoding.
        .btree_map(".")
        .compile_protos(&files, &["."])?;
    Ok(())
}
