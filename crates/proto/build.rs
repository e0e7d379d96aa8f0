//! Compiles the `.proto` files without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/ai.proto",
        "proto/node.proto",
        "proto/guestio.proto",
        "proto/bridge.proto",
        "proto/dial.proto",
        "proto/gateway.proto",
        "proto/guest.proto",
        "proto/ssh.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // Messages with secrets have a redacting `Debug` in src/lib.rs.
    let secret = [
        "rigbox.ai.v1.Setup",
        "rigbox.ai.v1.Upstream",
        "rigbox.ai.v1.ProviderKey",
        "rigbox.ai.v1.OpenOwnCallResponse",
        "rigbox.ai.v1.OwnKey",
        "rigbox.ai.v1.OpenSecretResponse",
        "rigbox.ai.v1.Secret",
        "rigbox.gateway.v1.IdentifyRequest",
        "rigbox.gateway.v1.RedeemRequest",
        "rigbox.gateway.v1.RedeemResponse",
        "rigbox.guest.v1.DeliverSecretsRequest",
        "rigbox.guest.v1.Resumed",
        "rigbox.node.v1.MemoryKey",
        "rigbox.ssh.v1.HostKeysResponse",
        "rigbox.ssh.v1.LogInRequest",
        "rigbox.ssh.v1.LogInResponse",
        "rigbox.ssh.v1.Granted",
    ];
    tonic_prost_build::configure().bytes(".").skip_debug(secret).compile_fds(descriptors)?;
    Ok(())
}
