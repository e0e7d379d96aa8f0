//! Keys in a security key, which is played by an agent of the test: they log in if somebody has touched it.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SystemRandom, generate};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use super::client::{Client, remove_key, shown, target};
use crate::TestResult;
use crate::clients::shared;
use crate::harness::installation::Installation;

tests![security_key_logs_in_when_it_is_touched];

const ALGORITHM: &str = "sk-ssh-ed25519@openssh.com";
const APPLICATION: &str = "ssh:";
/// Flags of a signature (U2F): somebody is there, and the token has verified who.
const USER_PRESENT: u8 = 1;
const USER_VERIFIED: u8 = 4;
/// Messages of the agent protocol (draft-ietf-sshm-ssh-agent).
const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Token whose signatures have these flags.
struct SecurityKey {
    pair: Ed25519KeyPair,
    flags: u8,
    signatures: AtomicU32,
}

/// Appends a string as SSH writes it.
fn put(message: &mut Vec<u8>, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    message.extend((bytes.len() as u32).to_be_bytes());
    message.extend(bytes);
}

/// Takes a string off the front of a message.
fn take<'a>(message: &mut &'a [u8]) -> Result<&'a [u8]> {
    let (len, rest) = message.split_first_chunk().context("too short")?;
    let (bytes, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize).context("too short")?;
    *message = rest;
    Ok(bytes)
}

impl SecurityKey {
    fn new(flags: u8) -> Result<Self> {
        let seed: [u8; 32] = generate(&SystemRandom::new())?.expose();
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)?;
        Ok(Self { pair, flags, signatures: AtomicU32::new(0) })
    }

    fn public_key(&self) -> Vec<u8> {
        let mut key = Vec::new();
        put(&mut key, ALGORITHM);
        put(&mut key, self.pair.public_key());
        put(&mut key, APPLICATION);
        key
    }

    /// Signs as a token does (OpenSSH's PROTOCOL.u2f): hashes of the application and of the text, with its flags and counter between.
    fn sign(&self, text: &[u8]) -> Vec<u8> {
        let counter = self.signatures.fetch_add(1, Ordering::Relaxed).wrapping_add(1).to_be_bytes();
        let (application, text) = (digest(&SHA256, APPLICATION.as_bytes()), digest(&SHA256, text));
        let signed = [application.as_ref(), &[self.flags], &counter, text.as_ref()].concat();
        let mut signature = Vec::new();
        put(&mut signature, ALGORITHM);
        put(&mut signature, self.pair.sign(&signed));
        signature.push(self.flags);
        signature.extend(counter);
        signature
    }

    fn answer(&self, mut request: &[u8]) -> Result<Vec<u8>> {
        let kind = request.split_off_first().context("an empty message")?;
        match *kind {
            REQUEST_IDENTITIES => {
                let mut answer = vec![IDENTITIES];
                answer.extend(1_u32.to_be_bytes());
                put(&mut answer, self.public_key());
                put(&mut answer, "security key");
                Ok(answer)
            }
            SIGN_REQUEST if take(&mut request)? == self.public_key() => {
                let mut answer = vec![SIGN_RESPONSE];
                put(&mut answer, self.sign(take(&mut request)?));
                Ok(answer)
            }
            _ => Ok(vec![FAILURE]),
        }
    }

    /// Answers one client until it leaves.
    fn serve(&self, mut client: UnixStream) -> Result<()> {
        loop {
            let mut len = [0; 4];
            match client.read_exact(&mut len) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            }
            let mut request = vec![0; u32::from_be_bytes(len) as usize];
            client.read_exact(&mut request)?;
            let mut answer = Vec::new();
            put(&mut answer, self.answer(&request)?);
            client.write_all(&answer)?;
        }
    }
}

/// Agent with one key, which listens until the suite ends.
struct Agent {
    socket: PathBuf,
    key: Arc<SecurityKey>,
}

impl Agent {
    fn start(socket: PathBuf, flags: u8) -> Result<Self> {
        let (listener, key) = (UnixListener::bind(&socket)?, Arc::new(SecurityKey::new(flags)?));
        let agent = Self { socket, key: Arc::clone(&key) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Err(error) = key.serve(client) {
                    eprintln!("the agent: {error:#}");
                }
            }
        });
        Ok(agent)
    }
}

/// Logs in by a security key with these flags. `options` are those that come before a registered key.
fn log_in(installation: &Installation, name: &str, flags: u8, options: &str) -> Result<Output> {
    let client = Client::unregistered(installation, name, "ed25519")?;
    let agent = Agent::start(client.path("agent"), flags)?;
    let line = format!("{ALGORITHM} {} {name}", BASE64.encode(agent.key.public_key()));
    // `ssh` finds the key in the agent by its public half.
    fs::remove_file(client.path("key"))?;
    fs::write(client.path("key.pub"), &line)?;
    let registered = format!("{options}{line}");
    installation.api.post("/ssh-keys", &json!({"name": name, "public_key": registered}))?.expect(201)?;
    let identity = format!("IdentityAgent={}", agent.socket.display());
    let host = target("shared", &shared(installation)?);
    let output = client.ssh(&["-o", &identity, &host, "echo in"])?;
    remove_key(installation, name)?;
    // A key that the gateway does not take is not asked for a signature.
    ensure!(agent.key.signatures.load(Ordering::Relaxed) == 1, "{name}: {}", shown(&output));
    Ok(output)
}

fn security_key_logs_in_when_it_is_touched(installation: &Installation) -> TestResult {
    for (name, flags, options) in [
        ("touched", USER_PRESENT, ""),
        ("verified", USER_PRESENT | USER_VERIFIED, ""),
        ("no-touch", 0, "no-touch-required "),
    ] {
        let output = log_in(installation, name, flags, options)?;
        ensure!(output.stdout == b"in\n", "{name}: {}", shown(&output));
    }
    for (name, flags) in [("untouched", 0), ("unlike", USER_VERIFIED)] {
        let output = log_in(installation, name, flags, "")?;
        let text = String::from_utf8_lossy(&output.stderr);
        let is_same = text.trim().ends_with("127.0.0.1: Permission denied (publickey).");
        ensure!(output.status.code() == Some(255) && is_same, "{name}: {}", shown(&output));
    }
    Ok(())
}
