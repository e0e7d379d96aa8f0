//! Fuzz targets of what strangers and VMs' servers send: bytes before any key, and messages after the first key exchange.

use rigbox_ssh_keys::private_key::PrivateKey;

use crate::authentication;
use crate::transport::{Event, Transport};

/// Output for a peer that sends nothing: a version and an offer.
const GREETING_BYTES: usize = 4096;

fn host_key() -> PrivateKey {
    PrivateKey::ed25519(&[1; 32]).unwrap()
}

fn server() -> Transport {
    Transport::server([host_key()].into()).unwrap()
}

/// Takes all events of a peer's bytes. Returns the messages, until the peer breaks the protocol.
fn messages(transport: &mut Transport, bytes: &[u8]) -> Vec<Vec<u8>> {
    transport.input().extend_from_slice(bytes);
    let mut messages = Vec::new();
    while let Ok(Some(event)) = transport.next_event() {
        if let Event::Message(message) = event {
            messages.push(message.to_vec());
        }
    }
    messages
}

#[test]
fn first_bytes_of_a_client() {
    bolero::check!(name = "first_bytes_of_a_client").for_each(|bytes: &[u8]| {
        let mut server = server();
        let messages = messages(&mut server, bytes);
        assert!(messages.is_empty(), "a message before the keys");
        // An answer to a stranger costs no more than what it was sent for.
        assert!(server.output().len() <= GREETING_BYTES + 4 * bytes.len());
    });
}

#[test]
fn first_bytes_of_a_server() {
    bolero::check!(name = "first_bytes_of_a_server").for_each(|bytes: &[u8]| {
        let mut client = Transport::client(host_key().public()).unwrap();
        assert!(messages(&mut client, bytes).is_empty(), "a message before the keys");
    });
}

#[test]
fn messages_after_the_keys() {
    bolero::check!(name = "messages_after_the_keys").for_each(|bytes: &[u8]| {
        let (mut server, mut client) = (server(), Transport::client(host_key().public()).unwrap());
        while !(server.may_send() && client.may_send()) {
            let (to_server, to_client) = (client.output().split(), server.output().split());
            messages(&mut server, &to_server);
            messages(&mut client, &to_client);
        }
        // Each message has a length before it.
        let mut rest = bytes;
        while let Some((length, following)) = rest.split_first() {
            let (message, following) = following.split_at(usize::from(*length).min(following.len()));
            rest = following;
            if message.is_empty() || client.send(message).is_err() {
                continue;
            }
            let sent = client.output().split();
            for message in messages(&mut server, &sent) {
                // Whatever they are, they are read or refused.
                let _ = authentication::requested_service(&message);
                let _ = authentication::log_in(&message);
            }
        }
    });
}
