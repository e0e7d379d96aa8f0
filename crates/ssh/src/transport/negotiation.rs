//! Negotiation of algorithms: the message KEXINIT (RFC 4253, section 7.1), and what follows from two of them.

use super::cipher::{self, Cipher};
use super::error::Error;
use super::key_exchange::{self, Method};
use crate::message::KEXINIT;
use rigbox_ssh_keys::wire::{Fields, Message};

const COOKIE_LEN: usize = 16;
const LISTS: usize = 10;
/// Maximum number of names in one list.
const MAX_NAMES: usize = 256;
/// Never used, because all ciphers authenticate; but some peers do not begin without a common one.
const MACS: &[&str] = &["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"];
const COMPRESSIONS: &[&str] = &["none"];
/// Marks of the first KEXINIT (RFC 8308, section 2.1; OpenSSH's PROTOCOL, section 1.9).
const CLIENT_MARKS: [&str; 2] = ["ext-info-c", "kex-strict-c-v00@openssh.com"];
const SERVER_MARKS: [&str; 2] = ["ext-info-s", "kex-strict-s-v00@openssh.com"];

/// Algorithms that one side offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    /// The message as it was sent.
    pub(super) message: Vec<u8>,
    lists: [Vec<String>; LISTS],
    pub(super) guess_follows: bool,
}

/// Side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// Algorithms of a key exchange and of what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreement {
    pub(super) method: Method,
    pub(super) host_key: String,
    pub(super) to_server: Cipher,
    pub(super) to_client: Cipher,
    /// True if the next packet of the peer is an exchange that it has guessed wrong.
    pub(super) skips_guess: bool,
}

impl Offer {
    /// Creates our own offer, with these algorithms of host keys.
    pub(super) fn ours(role: Role, host_keys: &[&str]) -> Result<Self, Error> {
        let mut cookie = [0; COOKIE_LEN];
        getrandom::fill(&mut cookie).map_err(|_| Error::Crypto)?;
        let marks = if role == Role::Client { CLIENT_MARKS } else { SERVER_MARKS };
        let methods: Vec<&str> = key_exchange::NAMES.iter().copied().chain(marks).collect();
        let (ciphers, none) = (cipher::NAMES, &[][..]);
        let lists: [&[&str]; LISTS] =
            [&methods, host_keys, ciphers, ciphers, MACS, MACS, COMPRESSIONS, COMPRESSIONS, none, none];
        let mut message = Message::new(KEXINIT).bytes(&cookie);
        for list in lists {
            message = message.string(list.join(","));
        }
        let message = message.boolean(false).uint32(0).into_bytes();
        let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        Ok(Self { message, lists: lists.map(owned), guess_follows: false })
    }

    /// Reads the peer's offer.
    pub(super) fn parse(message: &[u8]) -> Result<Self, Error> {
        let mut fields = Fields::of(message)?;
        fields.bytes(COOKIE_LEN)?;
        let mut lists = [const { Vec::new() }; LISTS];
        for list in &mut lists {
            let names = fields.text()?;
            *list = names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            if list.len() > MAX_NAMES {
                return Err(Error::Malformed);
            }
        }
        let guess_follows = fields.boolean()?;
        fields.uint32()?;
        fields.end()?;
        Ok(Self { message: message.to_vec(), lists, guess_follows })
    }

    /// Returns whether the side counts packets anew after each exchange, and takes nothing else during the first.
    pub(super) fn is_strict(&self) -> bool {
        self.has_method("kex-strict-c-v00@openssh.com") || self.has_method("kex-strict-s-v00@openssh.com")
    }

    /// Returns whether the side, a client, reads EXT_INFO.
    pub(super) fn takes_extensions(&self) -> bool {
        self.has_method("ext-info-c")
    }

    fn has_method(&self, name: &str) -> bool {
        self.list(0).iter().any(|method| method == name)
    }

    fn list(&self, number: usize) -> &[String] {
        self.lists.get(number).map_or(&[], Vec::as_slice)
    }
}

/// Returns what a client and a server agree on: of each list, the client's first name that the server has too.
pub(super) fn agree(client: &Offer, server: &Offer, peer: &Offer) -> Result<Agreement, Error> {
    let common = |number: usize, what| {
        let has = |name: &&String| server.list(number).contains(name);
        client.list(number).iter().find(has).ok_or(Error::NoCommon(what))
    };
    let method = common(0, "method of key exchange")?;
    let host_key = common(1, "algorithm of host keys")?;
    let (to_server, to_client) = (common(2, "cipher")?, common(3, "cipher")?);
    common(6, "compression")?;
    common(7, "compression")?;
    let cipher = |name: &str| Cipher::of(name).ok_or(Error::NoCommon("cipher"));
    // A guess is right if both sides prefer the same.
    let is_right =
        client.list(0).first() == server.list(0).first() && client.list(1).first() == server.list(1).first();
    Ok(Agreement {
        method: Method::of(method).ok_or(Error::NoCommon("method of key exchange"))?,
        host_key: host_key.clone(),
        to_server: cipher(to_server)?,
        to_client: cipher(to_client)?,
        skips_guess: peer.guess_follows && !is_right,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(role: Role, host_keys: &[&str]) -> Offer {
        Offer::ours(role, host_keys).unwrap()
    }

    #[test]
    fn own_offer_is_read_as_it_was_made() {
        for role in [Role::Client, Role::Server] {
            let ours = offer(role, &["ssh-ed25519"]);
            assert_eq!(Offer::parse(&ours.message).unwrap(), ours);
            assert!(ours.is_strict());
        }
        let cut = |len| Offer::parse(&offer(Role::Client, &[]).message[..len]);
        assert_eq!(cut(40), Err(Error::Malformed));
    }

    #[test]
    fn clients_order_decides() {
        let server = offer(Role::Server, &["ssh-ed25519", "ecdsa-sha2-nistp256"]);
        let client = offer(Role::Client, &["ssh-rsa", "ecdsa-sha2-nistp256", "ssh-ed25519"]);
        let agreement = agree(&client, &server, &client).unwrap();
        assert_eq!(agreement.host_key, "ecdsa-sha2-nistp256");
        assert_eq!(agreement.to_client, Cipher::Aes256Gcm);
        assert!(!agreement.skips_guess);
        let guessing = Offer { guess_follows: true, ..client };
        assert!(agree(&guessing, &server, &guessing).unwrap().skips_guess);
        let other = offer(Role::Client, &["ssh-dss"]);
        assert_eq!(agree(&other, &server, &other), Err(Error::NoCommon("algorithm of host keys")));
    }
}
