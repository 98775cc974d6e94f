// NEVER BUILT, see ../README.md. Needs protoc on the PATH (Debian: protobuf-compiler).
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = "../../../protos";
    tonic_build::configure().build_server(false).compile_protos(
        &["smartdj/v1/edit.proto", "google/rpc/status.proto", "google/rpc/error_details.proto"],
        &[protos, "../../../protos/third_party"],
    )?;
    println!("cargo:rerun-if-changed={protos}");
    Ok(())
}
