//! Two transports that talk to each other.

use super::*;

const DATA: u8 = 94;

struct Pair {
    client: Transport,
    server: Transport,
}

impl Pair {
    fn new() -> Self {
        let keys: Arc<[PrivateKey]> = [PrivateKey::ed25519(&[1; 32]).unwrap()].into();
        let public = keys[0].public();
        let (client, server) = (Transport::client(public).unwrap(), Transport::server(keys).unwrap());
        Self { client, server }
    }

    /// Moves bytes until nothing is left to move. Returns what client and server have received.
    fn exchange(&mut self) -> Result<[Vec<Event>; 2], Error> {
        let mut events = [Vec::new(), Vec::new()];
        loop {
            let to_server = self.client.output.split();
            let to_client = self.server.output.split();
            if to_server.is_empty() && to_client.is_empty() {
                return Ok(events);
            }
            self.server.input.extend_from_slice(&to_server);
            self.client.input.extend_from_slice(&to_client);
            for (transport, events) in [&mut self.client, &mut self.server].into_iter().zip(&mut events) {
                while let Some(event) = transport.next_event()? {
                    events.push(event);
                }
            }
        }
    }

    fn connected() -> Self {
        let mut pair = Self::new();
        assert_eq!(pair.exchange().unwrap(), [vec![], vec![]]);
        assert!(pair.client.may_send() && pair.server.may_send());
        assert_eq!(pair.client.session_id(), pair.server.session_id());
        pair
    }
}

fn data(byte: u8) -> Vec<u8> {
    vec![DATA, byte, byte]
}

fn message(byte: u8) -> Event {
    Event::Message(BytesMut::from(&data(byte)[..]))
}

#[test]
fn messages_pass_both_ways_through_any_number_of_key_exchanges() {
    let mut pair = Pair::connected();
    let session = pair.client.session_id().unwrap().to_vec();
    for round in 0..9 {
        pair.client.send(&data(round)).unwrap();
        pair.server.send(&data(round + 100)).unwrap();
        // From one side, from the other, and from both at once.
        if round % 3 != 1 {
            pair.client.rekey().unwrap();
        }
        if round % 3 != 0 {
            pair.server.rekey().unwrap();
        }
        assert_eq!(pair.client.may_send(), round % 3 == 1);
        let expected = [vec![message(round + 100)], vec![message(round)]];
        assert_eq!(pair.exchange().unwrap(), expected, "round {round}");
        assert!(pair.client.may_send() && pair.server.may_send());
        assert_eq!(pair.client.session_id().unwrap(), session);
    }
}

#[test]
fn keys_are_replaced_when_they_were_used_for_long() {
    let mut pair = Pair::connected();
    pair.client.bytes = MAX_BYTES_PER_KEY;
    pair.client.send(&data(1)).unwrap();
    assert!(!pair.client.may_send());
    assert_eq!(pair.client.send(&data(2)), Err(Error::Unexpected(DATA)));
    assert_eq!(pair.exchange().unwrap(), [vec![], vec![message(1)]]);
    assert!(pair.client.may_send() && pair.client.bytes < 1000);
}

#[test]
fn server_with_another_key_is_refused() {
    let other = PrivateKey::ed25519(&[2; 32]).unwrap().public();
    let mut pair = Pair { client: Transport::client(other).unwrap(), ..Pair::new() };
    assert!(matches!(pair.exchange(), Err(Error::HostKey(_))));
}

#[test]
fn nothing_comes_before_or_within_a_strict_key_exchange() {
    // Before the offer of the client, which is then not the first packet.
    let mut pair = Pair::new();
    let mut first = pair.client.output.split();
    let rest = first.split_off(VERSION.len() + 2);
    pair.server.input.extend_from_slice(&first);
    let mut ignore = BytesMut::new();
    Sealer::plain().seal(&[IGNORE, 0, 0, 0, 0], &mut ignore).unwrap();
    pair.server.input.extend_from_slice(&ignore);
    pair.server.input.extend_from_slice(&rest);
    assert_eq!(pair.server.next_event(), Err(Error::Unexpected(KEXINIT)));
    // After it.
    let mut pair = Pair::new();
    pair.client.seal(&[IGNORE, 0, 0, 0, 0]).unwrap();
    assert_eq!(pair.exchange().err(), Some(Error::Unexpected(IGNORE)));
    // Messages of the layers above come when keys are there.
    let mut pair = Pair::new();
    pair.client.seal(&data(1)).unwrap();
    assert_eq!(pair.exchange().err(), Some(Error::Unexpected(DATA)));
    let mut pair = Pair::connected();
    pair.client.rekey().unwrap();
    pair.client.seal(&data(1)).unwrap();
    assert_eq!(pair.exchange().err(), Some(Error::Unexpected(DATA)));
}

#[test]
fn pings_are_answered_and_unknown_messages_refused_by_number() {
    let mut pair = Pair::connected();
    pair.client.seal(&[PING, 0, 0, 0, 1, 7]).unwrap();
    pair.client.seal(&[200]).unwrap();
    pair.server.next_event().unwrap();
    let sent = pair.client.output.split();
    pair.server.input.extend_from_slice(&sent);
    assert_eq!(pair.server.next_event(), Ok(None));
    let answer = pair.server.output.split();
    pair.client.input.extend_from_slice(&answer);
    let mut answers = Vec::new();
    while let Some(message) = pair.client.opener.open(&mut pair.client.input, MAX_PACKET_LEN).unwrap() {
        answers.push(message.to_vec());
    }
    // The packets were 0 and 1 since the keys were new.
    assert_eq!(answers, [vec![PONG, 0, 0, 0, 1, 7], vec![UNIMPLEMENTED, 0, 0, 0, 1]]);
}

#[test]
fn peer_that_speaks_something_else_is_refused() {
    let server = || Transport::server([PrivateKey::ed25519(&[1; 32]).unwrap()].into()).unwrap();
    for (line, refused) in [
        (&b"GET / HTTP/1.1\r\n"[..], true),
        (b"SSH-1.5-old\r\n", true),
        (&[b'S'; 300], true),
        (b"SSH-2.0-", false),
        (b"SSH-2.0-x\r\n", false),
        (b"SSH-2.0-x\n", false),
    ] {
        let mut server = server();
        server.input.extend_from_slice(line);
        assert_eq!(server.next_event().is_err(), refused, "{}", String::from_utf8_lossy(line));
    }
    let mut client = Transport::client(vec![]).unwrap();
    client.input.extend_from_slice(b"Welcome.\r\nSSH-2.0-x\r\n");
    assert_eq!(client.next_event(), Ok(None));
    assert_eq!(client.peer_version.as_deref(), Some("SSH-2.0-x"));
    let mut client = Transport::client(vec![]).unwrap();
    client.input.extend_from_slice(&b"Welcome.\r\n".repeat(1000));
    assert_eq!(client.next_event(), Err(Error::NotSsh));
}

#[test]
fn end_of_the_connection_says_why() {
    let mut pair = Pair::connected();
    pair.server.disconnect(11, "bye").unwrap();
    let expected = vec![Event::Disconnected { reason: 11, text: "bye".to_owned() }];
    assert_eq!(pair.exchange().unwrap(), [expected, vec![]]);
}
