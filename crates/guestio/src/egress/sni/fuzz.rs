//! Fuzz target of a guest's ClientHello.

use rigbox_testkit::Pieces;

use super::*;

/// Reads a ClientHello as the check does. Returns its name, and whether it has an encrypted one.
async fn read(mut stream: Pieces) -> Option<(String, bool)> {
    let mut client_hello = Vec::new();
    let name = read_server_name(&mut stream, &mut client_hello).await;
    assert!(client_hello.len() <= MAX_CLIENT_HELLO_BYTES + 4096);
    Some((name.ok()?, has_encrypted_name(&client_hello)))
}

#[test]
fn client_hello() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    bolero::check!(name = "client_hello").for_each(|bytes: &[u8]| {
        let whole = runtime.block_on(read(Pieces::whole(bytes)));
        let split = runtime.block_on(read(Pieces::split(bytes)));
        assert_eq!(whole, split, "the end of a read makes no difference");
        if let Some((name, _)) = whole {
            assert!(!name.is_empty() && name.len() <= 255 && name.is_ascii());
            assert_eq!(name, name.to_ascii_lowercase());
        }
        if !has_encrypted_name(bytes) {
            // Only the first message counts, and all of it.
            assert!(!has_encrypted_name(&[bytes, b"more"].concat()));
            let length = bytes.len().min(9 + 34);
            assert!(has_encrypted_name(bytes.get(..length).unwrap()), "a part cannot be read");
        }
    });
}
