//! Fuzz targets of the handshake: both ends find the end of it, to the byte, in whatever else arrives.

use rigbox_testkit::Pieces;

use super::*;

const NONCE: [u8; NONCE_LEN] = *b"nonce-of-a-test!";

fn position(bytes: &[u8], message: &[u8]) -> Option<usize> {
    bytes.windows(message.len()).position(|window| window == message)
}

#[test]
fn handshake_of_host() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let go = message(GO, NONCE);
    bolero::check!(name = "handshake_of_host").for_each(|bytes: &[u8]| {
        for mut stream in [Pieces::whole(bytes), Pieces::split(bytes)] {
            let opened = runtime.block_on(open(&mut stream, NONCE));
            match position(bytes, &go) {
                None => assert!(matches!(opened, Err(HandshakeError::Io(_))), "{opened:?}"),
                Some(start) => {
                    assert!(opened.is_ok(), "{opened:?}");
                    let read = bytes.len() - stream.rest().len();
                    assert_eq!(read, start + go.len(), "what follows belongs to the session");
                }
            }
        }
    });
}

#[test]
fn handshake_of_guest() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    bolero::check!(name = "handshake_of_guest").for_each(|bytes: &[u8]| {
        for mut stream in [Pieces::whole(bytes), Pieces::split(bytes)] {
            let accepted = runtime.block_on(accept(&mut stream)).is_ok();
            let (read, written) = (bytes.len() - stream.rest().len(), stream.written().bytes());
            let read = bytes.get(..read).unwrap();
            // It says nothing of its own: each message is an echo.
            for echo in written.chunks(MESSAGE_LEN) {
                assert!(position(read, echo).is_some(), "{echo:?}");
            }
            if accepted {
                let last = written.last_chunk::<MESSAGE_LEN>().unwrap();
                assert!(last.starts_with(&GO) && written.starts_with(&HELLO));
            }
        }
    });
}
