//! Compiles the `.proto` files without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/node.proto",
        "proto/attend.proto",
        "proto/bridge.proto",
        "proto/dial.proto",
        "proto/gateway.proto",
        "proto/guest.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // What holds secrets has a `Debug` of its own (src/lib.rs).
    let secret = [
        "rigbox.gateway.v1.IdentifyRequest",
        "rigbox.gateway.v1.RedeemRequest",
        "rigbox.gateway.v1.Redeemed",
        "rigbox.guest.v1.DeliverRequest",
    ];
    tonic_prost_build::configure().bytes(".").skip_debug(secret).compile_fds(descriptors)?;
    Ok(())
}
