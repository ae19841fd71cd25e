//! Compiles the interface's text into Rust, without a system `protoc`.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["runtime/v1/api.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), prost_bytes(&descriptors))?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .generate_default_stubs(true)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .compile_fds(protox::compile(["corten/v1/admin.proto"], ["proto"])?)?;
    let containerd = ["version", "containers", "tasks"]
        .map(|service| format!("containerd/services/{service}/v1/{service}.proto"));
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .compile_fds(protox::compile(containerd, ["proto"])?)?;
    Ok(())
}

fn prost_bytes(set: &prost_types::FileDescriptorSet) -> Vec<u8> {
    use prost::Message as _;
    set.encode_to_vec()
}
