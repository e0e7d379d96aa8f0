//! Transport layer of SSH (RFC 4253) for one connection, without I/O: bytes go in and out, messages of the layers above come and go. Key
//! exchanges, with strict ordering (OpenSSH's PROTOCOL, section 1.9), happen inside.

use std::sync::Arc;

use bytes::BytesMut;
use zeroize::Zeroizing;

use crate::message::{
    DEBUG, DISCONNECT, EXT_INFO, IGNORE, KEX_ECDH_INIT, KEX_ECDH_REPLY, KEXINIT, NEWKEYS, PING, PONG,
    SERVICE_ACCEPT, SERVICE_REQUEST, UNIMPLEMENTED, USERAUTH_REQUEST,
};
use cipher::{Cipher, Opener, Sealer};
pub use error::Error;
use key_exchange::{ClientShare, Hash, Secret, Transcript};
use negotiation::{Agreement, Offer, Role, agree};
use rigbox_ssh_keys::private_key::PrivateKey;
use rigbox_ssh_keys::signature::{ALGORITHMS, ECDSA_P256_NAME, ED25519_NAME, verify};
use rigbox_ssh_keys::wire::{Fields, Message};

mod cipher;
mod error;
mod key_exchange;
mod negotiation;
#[cfg(test)]
mod tests;

const VERSION: &str = "SSH-2.0-Rigbox";
/// Maximum length of a version line, its end included (RFC 4253, section 4.2).
const MAX_VERSION_LEN: usize = 255;
/// Maximum number of bytes of lines that a server sends before its version.
const MAX_GREETING_BYTES: usize = 4096;
/// Maximum length of a packet before the log-in: what every implementation has to accept (RFC 4253, section 6.1).
const MAX_EARLY_PACKET_LEN: usize = 35_000;
/// Maximum length of a packet after it, as OpenSSH's.
const MAX_PACKET_LEN: usize = 256 * 1024;
/// Packets after which keys are replaced. Numbers of packets repeat after 2^32.
const MAX_PACKETS_PER_KEY: u64 = 1 << 30;
/// Bytes after which keys are replaced (RFC 4344, section 3.2: 2^32 blocks).
const MAX_BYTES_PER_KEY: u64 = 1 << 35;
/// Maximum number of pings that wait for the end of a key exchange.
const MAX_OWED_PONGS: usize = 64;
/// Event that a transport has received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Message of a layer above.
    Message(BytesMut),
    /// The peer ends the connection.
    Disconnected {
        /// Code (RFC 4253, section 11.1).
        reason: u32,
        /// Text for people, which the peer has chosen.
        text: String,
    },
}

/// Whose end of the connection this is, with what it needs for that.
enum Side {
    /// A server with its host keys.
    Server(Arc<[PrivateKey]>),
    /// A client with the host key that the server has to have.
    Client(Vec<u8>),
}

/// Key exchange in progress.
enum Exchange {
    Idle,
    /// Our offer was sent.
    Offered(Offer),
    /// A server waits for the client's share.
    AwaitsShare(Agreement, Offers),
    /// A client waits for the server's answer.
    AwaitsAnswer(Agreement, Offers, ClientShare),
    /// Our side has sent NEWKEYS, and the peer has not. With the peer's cipher, key and nonce.
    AwaitsKeys(Cipher, Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>),
}

/// Offers of both sides, as they were sent.
struct Offers {
    client: Vec<u8>,
    server: Vec<u8>,
}

/// Transport of one connection.
pub struct Transport {
    side: Side,
    input: BytesMut,
    output: BytesMut,
    /// Version of the peer, once it is known.
    peer_version: Option<String>,
    greeting_bytes: usize,
    sealer: Sealer,
    opener: Opener,
    exchange: Exchange,
    /// Hash of the first exchange.
    session_id: Option<Hash>,
    is_strict: bool,
    /// True if the peer, a client, reads EXT_INFO.
    takes_extensions: bool,
    skips_guess: bool,
    max_packet_len: usize,
    packets: u64,
    bytes: u64,
    owed_pongs: Vec<BytesMut>,
}

impl Transport {
    /// Creates the transport of a server with these host keys.
    ///
    /// # Errors
    /// [`Error::Crypto`] without random numbers.
    pub fn server(host_keys: Arc<[PrivateKey]>) -> Result<Self, Error> {
        Self::new(Side::Server(host_keys))
    }

    /// Creates the transport of a client of the server with this host key, as SSH writes it.
    ///
    /// # Errors
    /// [`Error::Crypto`] without random numbers.
    pub fn client(host_key: Vec<u8>) -> Result<Self, Error> {
        Self::new(Side::Client(host_key))
    }

    fn new(side: Side) -> Result<Self, Error> {
        let mut transport = Self {
            side,
            input: BytesMut::new(),
            output: BytesMut::new(),
            peer_version: None,
            greeting_bytes: 0,
            sealer: Sealer::plain(),
            opener: Opener::plain(),
            exchange: Exchange::Idle,
            session_id: None,
            is_strict: false,
            takes_extensions: false,
            skips_guess: false,
            max_packet_len: MAX_EARLY_PACKET_LEN,
            packets: 0,
            bytes: 0,
            owed_pongs: Vec::new(),
        };
        transport.output.extend_from_slice(VERSION.as_bytes());
        transport.output.extend_from_slice(b"\r\n");
        transport.rekey()?;
        Ok(transport)
    }

    /// Bytes from the peer, which [`Self::next_event`] takes.
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Bytes for the peer.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Returns the hash of the first key exchange, once that has ended. Signatures of a log-in are for it.
    #[must_use]
    pub fn session_id(&self) -> Option<&[u8]> {
        self.session_id.as_ref().map(<[u8; 32]>::as_slice)
    }

    /// Returns whether messages of the layers above may be sent: not before the first key exchange, nor while another is in progress.
    #[must_use]
    pub fn may_send(&self) -> bool {
        self.session_id.is_some() && matches!(self.exchange, Exchange::Idle | Exchange::AwaitsKeys(..))
    }

    /// Allows the longer packets of a connection after its log-in.
    pub fn logged_in(&mut self) {
        self.max_packet_len = MAX_PACKET_LEN;
    }

    /// Sends a message of a layer above. [`Self::may_send`] must hold.
    ///
    /// # Errors
    /// [`Error::Unexpected`] if it does not; [`Error::TooLong`] for a message that no packet holds.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Error> {
        if !self.may_send() {
            return Err(Error::Unexpected(message.first().copied().unwrap_or_default()));
        }
        self.seal(message)?;
        let is_due = self.packets >= MAX_PACKETS_PER_KEY || self.bytes >= MAX_BYTES_PER_KEY;
        if is_due && matches!(self.exchange, Exchange::Idle) { self.rekey() } else { Ok(()) }
    }

    /// Begins a key exchange, unless one is in progress.
    ///
    /// # Errors
    /// [`Error::Crypto`] without random numbers.
    pub fn rekey(&mut self) -> Result<(), Error> {
        if !matches!(self.exchange, Exchange::Idle) {
            return Ok(());
        }
        let offer = match &self.side {
            Side::Server(keys) => {
                let names: Vec<&str> = keys.iter().map(PrivateKey::algorithm).collect();
                Offer::ours(Role::Server, &names)?
            }
            Side::Client(_) => Offer::ours(Role::Client, &[ED25519_NAME, ECDSA_P256_NAME])?,
        };
        self.seal(&offer.message)?;
        self.exchange = Exchange::Offered(offer);
        Ok(())
    }

    /// Ends the connection with a code (RFC 4253, section 11.1) and a text for people. The output is still to be written.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the cipher fails.
    pub fn disconnect(&mut self, reason: u32, text: &str) -> Result<(), Error> {
        self.seal(&Message::new(DISCONNECT).uint32(reason).string(text).string("").into_bytes())
    }

    /// Takes the next event from the input. `None` until more of it is there.
    ///
    /// # Errors
    /// A fault of the peer, after which the connection cannot go on.
    pub fn next_event(&mut self) -> Result<Option<Event>, Error> {
        if self.peer_version.is_none() && !self.read_version()? {
            return Ok(None);
        }
        while let Some(message) = self.opener.open(&mut self.input, self.max_packet_len)? {
            self.packets += 1;
            self.bytes += message.len() as u64;
            if let Some(event) = self.receive(message)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Reads the peer's version. A server may send other lines before it. Returns whether it is there.
    fn read_version(&mut self) -> Result<bool, Error> {
        let may_greet = matches!(self.side, Side::Client(_));
        while let Some(end) = self.input.iter().take(MAX_VERSION_LEN).position(|byte| *byte == b'\n') {
            let line = self.input.split_to(end + 1);
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let text = std::str::from_utf8(line).unwrap_or_default();
            if text.starts_with("SSH-2.0-") || text.starts_with("SSH-1.99-") {
                self.peer_version = Some(text.to_owned());
                return Ok(true);
            }
            self.greeting_bytes += end;
            if !may_greet || text.starts_with("SSH-") || self.greeting_bytes > MAX_GREETING_BYTES {
                return Err(Error::NotSsh);
            }
        }
        if self.input.len() >= MAX_VERSION_LEN { Err(Error::NotSsh) } else { Ok(false) }
    }

    fn receive(&mut self, message: BytesMut) -> Result<Option<Event>, Error> {
        let number = message.first().copied().ok_or(Error::Malformed)?;
        match number {
            DISCONNECT => return disconnected(&message).map(Some),
            IGNORE | DEBUG | UNIMPLEMENTED if self.is_strict && self.session_id.is_none() => {
                return Err(Error::Unexpected(number));
            }
            IGNORE | DEBUG | UNIMPLEMENTED => {}
            30..=49 if std::mem::take(&mut self.skips_guess) => {}
            KEXINIT => self.on_offer(&message)?,
            KEX_ECDH_INIT => self.on_share(&message)?,
            KEX_ECDH_REPLY => self.on_answer(&message)?,
            NEWKEYS => self.on_keys(&message)?,
            _ if !self.may_receive() => return Err(Error::Unexpected(number)),
            EXT_INFO | PONG => {}
            PING => self.pong(&message)?,
            SERVICE_REQUEST | SERVICE_ACCEPT | USERAUTH_REQUEST..=127 => {
                return Ok(Some(Event::Message(message)));
            }
            _ => {
                let unknown = Message::new(UNIMPLEMENTED).uint32(self.opener.last_sequence());
                self.seal(&unknown.into_bytes())?;
            }
        }
        Ok(None)
    }

    /// Returns whether the peer may send messages of the layers above.
    fn may_receive(&self) -> bool {
        self.session_id.is_some() && matches!(self.exchange, Exchange::Idle | Exchange::Offered(_))
    }

    fn seal(&mut self, message: &[u8]) -> Result<(), Error> {
        self.packets += 1;
        self.bytes += message.len() as u64;
        self.sealer.seal(message, &mut self.output)
    }

    fn pong(&mut self, ping: &[u8]) -> Result<(), Error> {
        let mut pong = BytesMut::from(ping);
        if let Some(number) = pong.first_mut() {
            *number = PONG;
        }
        if self.may_send() {
            return self.seal(&pong);
        }
        if self.owed_pongs.len() >= MAX_OWED_PONGS {
            return Err(Error::Unexpected(PING));
        }
        self.owed_pongs.push(pong);
        Ok(())
    }

    fn on_offer(&mut self, message: &[u8]) -> Result<(), Error> {
        self.rekey()?;
        let Exchange::Offered(ours) = std::mem::replace(&mut self.exchange, Exchange::Idle) else {
            return Err(Error::Unexpected(KEXINIT));
        };
        let theirs = Offer::parse(message)?;
        if self.session_id.is_none() {
            self.is_strict = ours.is_strict() && theirs.is_strict();
            self.takes_extensions = theirs.takes_extensions();
            if self.is_strict && self.opener.last_sequence() != 0 {
                return Err(Error::Unexpected(KEXINIT));
            }
        }
        match &self.side {
            Side::Server(_) => {
                let agreement = agree(&theirs, &ours, &theirs)?;
                self.skips_guess = agreement.skips_guess;
                let offers = Offers { client: theirs.message, server: ours.message };
                self.exchange = Exchange::AwaitsShare(agreement, offers);
            }
            Side::Client(_) => {
                let agreement = agree(&ours, &theirs, &theirs)?;
                self.skips_guess = agreement.skips_guess;
                let offers = Offers { client: ours.message, server: theirs.message };
                let share = ClientShare::new(agreement.method)?;
                self.seal(&Message::new(KEX_ECDH_INIT).string(&share.public).into_bytes())?;
                self.exchange = Exchange::AwaitsAnswer(agreement, offers, share);
            }
        }
        Ok(())
    }

    /// Answers a client's share.
    fn on_share(&mut self, message: &[u8]) -> Result<(), Error> {
        let exchange = std::mem::replace(&mut self.exchange, Exchange::Idle);
        let (Exchange::AwaitsShare(agreement, offers), Side::Server(keys)) = (exchange, &self.side) else {
            return Err(Error::Unexpected(KEX_ECDH_INIT));
        };
        let mut fields = Fields::of(message)?;
        let client_share = fields.string()?;
        fields.end()?;
        let is_agreed = |key: &&PrivateKey| key.algorithm() == agreement.host_key;
        let host_key = keys.iter().find(is_agreed).ok_or(Error::NoCommon("algorithm of host keys"))?;
        let (server_share, secret) = key_exchange::respond(agreement.method, client_share)?;
        let public = host_key.public();
        let hash = self.hash(&offers, &public, client_share, &server_share, &secret);
        let signature = host_key.sign(&hash).map_err(|_| Error::Crypto)?;
        let answer = Message::new(KEX_ECDH_REPLY).string(public).string(server_share).string(signature);
        self.seal(&answer.into_bytes())?;
        self.take_keys(&agreement, &hash, &secret)
    }

    /// Checks a server's answer.
    fn on_answer(&mut self, message: &[u8]) -> Result<(), Error> {
        let exchange = std::mem::replace(&mut self.exchange, Exchange::Idle);
        let (Exchange::AwaitsAnswer(agreement, offers, share), Side::Client(expected)) =
            (exchange, &self.side)
        else {
            return Err(Error::Unexpected(KEX_ECDH_REPLY));
        };
        let mut fields = Fields::of(message)?;
        let (public, server_share, signature) = (fields.string()?, fields.string()?, fields.string()?);
        fields.end()?;
        if public != expected {
            return Err(Error::HostKey(rigbox_ssh_keys::KeyError::WrongSignature));
        }
        let client_share = share.public.clone();
        let secret = share.finish(server_share)?;
        let hash = self.hash(&offers, public, &client_share, server_share, &secret);
        verify(public, &agreement.host_key, &hash, signature).map_err(Error::HostKey)?;
        self.take_keys(&agreement, &hash, &secret)
    }

    fn hash(
        &self,
        offers: &Offers,
        host_key: &[u8],
        client_share: &[u8],
        server_share: &[u8],
        secret: &Secret,
    ) -> Hash {
        let peer = self.peer_version.as_deref().unwrap_or_default();
        let (client_version, server_version) = match self.side {
            Side::Server(_) => (peer, VERSION),
            Side::Client(_) => (VERSION, peer),
        };
        let (client_offer, server_offer) = (&offers.client, &offers.server);
        let transcript = Transcript {
            client_version,
            server_version,
            client_offer,
            server_offer,
            host_key,
            client_share,
            server_share,
        };
        transcript.hash(secret)
    }

    /// Replaces the keys for what is sent, and keeps those for what is received until the peer has replaced them too.
    fn take_keys(&mut self, agreement: &Agreement, hash: &Hash, secret: &Secret) -> Result<(), Error> {
        let is_first = self.session_id.is_none();
        let session_id = *self.session_id.get_or_insert(*hash);
        let material = |cipher: Cipher, nonce: u8, key: u8| {
            let derive = |letter, len| secret.derive(hash, letter, &session_id, len);
            (cipher, derive(key, cipher.key_len()), derive(nonce, cipher.nonce_len()))
        };
        let to_server = material(agreement.to_server, b'A', b'C');
        let to_client = material(agreement.to_client, b'B', b'D');
        let is_server = matches!(self.side, Side::Server(_));
        let (sent, received) = if is_server { (to_client, to_server) } else { (to_server, to_client) };
        self.seal(&[NEWKEYS])?;
        let (cipher, key, nonce) = sent;
        self.sealer.rekey(cipher, &key, &nonce, self.is_strict)?;
        let (cipher, key, nonce) = received;
        self.exchange = Exchange::AwaitsKeys(cipher, key, nonce);
        (self.packets, self.bytes) = (0, 0);
        if is_first && is_server && self.takes_extensions {
            let extensions = Message::new(EXT_INFO).uint32(2);
            let extensions = extensions.string("server-sig-algs").string(ALGORITHMS.join(","));
            self.seal(&extensions.string("ping@openssh.com").string("0").into_bytes())?;
        }
        for pong in std::mem::take(&mut self.owed_pongs) {
            self.seal(&pong)?;
        }
        Ok(())
    }

    fn on_keys(&mut self, message: &[u8]) -> Result<(), Error> {
        let exchange = std::mem::replace(&mut self.exchange, Exchange::Idle);
        let Exchange::AwaitsKeys(cipher, key, nonce) = exchange else {
            return Err(Error::Unexpected(NEWKEYS));
        };
        Fields::of(message)?.end()?;
        self.opener.rekey(cipher, &key, &nonce, self.is_strict)
    }
}

fn disconnected(message: &[u8]) -> Result<Event, Error> {
    let mut fields = Fields::of(message)?;
    let (reason, text) = (fields.uint32()?, String::from_utf8_lossy(fields.string()?).into_owned());
    Ok(Event::Disconnected { reason, text })
}
