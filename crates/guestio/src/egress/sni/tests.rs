use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;
use crate::egress::testbed::{TARGET, Testbed, connection, exchange, policy};

/// Returns the ClientHello for `name`, with an encrypted server name as browsers send it.
fn client_hello(name: &'static str, ech: bool) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    if ech {
        // Outer, cipher suite, id of the key, its encapsulation, and the payload.
        let extension = [0xfe, 0x0d, 0, 12, 0, 0, 1, 0, 1, 7, 0, 1, 9, 0, 1, 9];
        // Session id, ciphers and compressions are before the extensions.
        let session = 43 + 1 + usize::from(hello[43]);
        let ciphers = session + 2 + usize::from(u16::from_be_bytes([hello[session], hello[session + 1]]));
        let extensions = ciphers + 1 + usize::from(hello[ciphers]);
        for length in [3, 7, extensions] {
            let longer = u16::from_be_bytes([hello[length], hello[length + 1]]) + 16;
            hello[length..length + 2].copy_from_slice(&longer.to_be_bytes());
        }
        hello.extend(extension);
    }
    hello
}

async fn is_forwarded(testbed: &Testbed, hello: &[u8]) -> bool {
    let (mut client, server) = connection().await;
    let vm = Arc::clone(&testbed.vm);
    tokio::spawn(async move { forward(&vm, server, TARGET).await });
    exchange(&mut client, hello, "answer").await == "answer"
}

#[tokio::test]
async fn encrypted_name_passes_only_where_the_owner_allows_it() {
    let respond = |_: &[u8]| b"answer".to_vec();
    for (allow_ech, name, ech, forwarded) in [
        (false, "example.org", false, true),
        (false, "example.org", true, false),
        (true, "example.org", true, true),
        (true, "evil.example", true, false),
        (true, "evil.example", false, false),
        (true, "one.example", false, false),
    ] {
        let testbed = Testbed::start(policy(&["example.org", "one.example:80"], allow_ech), respond).await;
        let hello = client_hello(name, ech);
        assert_eq!(is_forwarded(&testbed, &hello).await, forwarded, "{allow_ech} {name} {ech}");
        assert_eq!(testbed.vm.refusals.take().is_empty(), forwarded);
    }
}
