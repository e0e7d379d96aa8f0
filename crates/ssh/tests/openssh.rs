//! OpenSSH's client at the gateway's two connections: log-ins with all ciphers and host keys, and data that is relayed while both sides
//! replace their keys. The server behind the gateway is a small one of this test: it returns what a command would read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a panic is a failed test

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rigbox_ssh::authentication::{self, LogIn, Method};
use rigbox_ssh::connection::{Connection, Error};
use rigbox_ssh::host_keys::HostKeys;
use rigbox_ssh::relay::{Passed, relay};
use rigbox_ssh::transport::Transport;
use rigbox_ssh_keys::log_in::signed_text;
use rigbox_ssh_keys::private_key::PrivateKey;
use rigbox_ssh_keys::signature::verify;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

const TIMEOUT: Duration = Duration::from_secs(60);
/// Fits into the window of a client, so that the server of this test need not count.
const DATA_LEN: usize = 1_500_000;

/// Gateway that takes one key's log-ins as any user.
struct Gateway {
    folder: TempDir,
    port: u16,
}

impl Gateway {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(made.await.unwrap().success());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let own: Arc<[PrivateKey]> =
            [PrivateKey::ed25519(&[1; 32]).unwrap(), PrivateKey::generate_ecdsa_p256().unwrap()].into();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&own)));
            }
        });
        Self { folder, port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `ssh` with more options and this standard input. Returns its exit code, standard output and standard error.
    async fn ssh(&self, options: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-p", &self.port.to_string(), "-o", "BatchMode=yes"]);
        command.args(["-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o"]);
        command.arg(format!("UserKnownHostsFile={}", self.path("known_hosts").display()));
        command.args(options).args(["anybody@127.0.0.1", "cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let write = async move {
            // Refused log-ins read nothing.
            let _ = stdin.write_all(input).await;
        };
        let both = async { tokio::join!(write, child.wait_with_output()).1.unwrap() };
        let output = tokio::time::timeout(TIMEOUT, both).await.expect("ssh does not end");
        (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn identity(&self) -> String {
        format!("IdentityFile={}", self.path("key").display())
    }
}

/// Serves one client.
async fn serve(stream: TcpStream, own: Arc<[PrivateKey]>) {
    let mut client = Connection::new(stream, Transport::server(Arc::clone(&own)).unwrap());
    client.open().await.unwrap();
    if accept_log_in(&mut client).await.is_err() {
        return;
    }
    let vm_key = PrivateKey::ed25519(&[2; 32]).unwrap();
    let host_key = vm_key.public();
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(vm(far, vm_key));
    let mut server = Connection::new(near, Transport::client(host_key).unwrap());
    server.open().await.unwrap();
    server.send(&authentication::service_request(authentication::USERAUTH)).await.unwrap();
    server.receive().await.unwrap();
    let login = PrivateKey::ed25519(&[3; 32]).unwrap();
    let request = authentication::log_in_request(server.session_id().unwrap(), "developer", &login).unwrap();
    server.send(&request).await.unwrap();
    assert!(authentication::is_success(&server.receive().await.unwrap()));
    client.send(&authentication::banner("Relayed.\r\n")).await.unwrap();
    client.send(&authentication::succeeded()).await.unwrap();
    client.logged_in();
    let host_keys = HostKeys::new(own, client.session_id().unwrap());
    client.send(&host_keys.announcement()).await.unwrap();
    server.logged_in();
    let mut passed = Passed::default();
    relay(client, server, &host_keys, &mut passed, std::future::pending()).await.unwrap();
    assert!(passed.to_client > 0);
}

/// Takes a log-in by the key's own signature.
async fn accept_log_in<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Connection<S>) -> Result<(), Error> {
    let request = client.receive().await?;
    assert_eq!(authentication::requested_service(&request), Ok(Some(authentication::USERAUTH)));
    client.send(&authentication::service_accept(authentication::USERAUTH)).await?;
    loop {
        let message = client.receive().await?;
        let LogIn { user, method, .. } = authentication::log_in(&message).unwrap().unwrap();
        let answer = match method {
            Method::PublicKey { algorithm, key, signature: None } => {
                authentication::key_accepted(algorithm, key)
            }
            Method::PublicKey { algorithm, key, signature: Some(signature) } => {
                let session_id = client.session_id().unwrap();
                let text = signed_text(session_id, user, algorithm, key);
                if verify(key, algorithm, &text, signature).is_ok() {
                    return Ok(());
                }
                authentication::refused()
            }
            Method::Other(_) => authentication::refused(),
        };
        client.send(&answer).await?;
    }
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// Server with one session, whose command is `cat`. It exits with 7.
async fn vm(stream: tokio::io::DuplexStream, key: PrivateKey) {
    let mut own = Connection::new(stream, Transport::server([key].into()).unwrap());
    own.open().await.unwrap();
    accept_log_in(&mut own).await.unwrap();
    own.send(&authentication::succeeded()).await.unwrap();
    own.logged_in();
    // Not for the client, which has seen the gateway's key.
    own.send(&[&[80][..], &string(b"hostkeys-00@openssh.com"), &[0], &string(b"key")].concat())
        .await
        .unwrap();
    let mut channel = Vec::new();
    while let Ok(message) = own.receive().await {
        let body = &message[1..];
        match message[0] {
            80 => {
                let name = u32::from_be_bytes(body[..4].try_into().unwrap()) as usize;
                if body[4 + name] != 0 {
                    own.send(&[82]).await.unwrap();
                }
            }
            90 => {
                // A string and then the number by which the client knows the channel. It is also ours.
                let kind = u32::from_be_bytes(body[..4].try_into().unwrap()) as usize;
                channel = body[4 + kind..][..4].to_vec();
                let window = (1_u32 << 30).to_be_bytes();
                let sizes = [&window[..], &32_768_u32.to_be_bytes()].concat();
                own.send(&[&[91][..], &channel, &channel, &sizes].concat()).await.unwrap();
            }
            98 => {
                let kind = u32::from_be_bytes(body[4..8].try_into().unwrap()) as usize;
                if body[8 + kind] != 0 {
                    own.send(&[&[99][..], &channel].concat()).await.unwrap();
                }
            }
            94 => own.send(&[&[94][..], body].concat()).await.unwrap(),
            96 => {
                let status =
                    [&[98][..], &channel, &string(b"exit-status"), &[0], &7_u32.to_be_bytes()].concat();
                own.send(&[&[96][..], &channel].concat()).await.unwrap();
                own.send(&status).await.unwrap();
                own.send(&[&[97][..], &channel].concat()).await.unwrap();
            }
            _ => {}
        }
    }
}

async fn random(len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    tokio::fs::File::open(Path::new("/dev/urandom")).await.unwrap().read_exact(&mut data).await.unwrap();
    data
}

#[tokio::test]
async fn client_logs_in_with_each_cipher_and_host_key() {
    let gateway = Gateway::start().await;
    let identity = gateway.identity();
    for options in [
        ["-c", "aes128-gcm@openssh.com", "-o", "HostKeyAlgorithms=ssh-ed25519"],
        ["-c", "aes256-gcm@openssh.com", "-o", "KexAlgorithms=curve25519-sha256"],
        ["-c", "chacha20-poly1305@openssh.com", "-o", "KexAlgorithms=curve25519-sha256@libssh.org"],
        ["-c", "aes256-gcm@openssh.com", "-o", "HostKeyAlgorithms=ecdsa-sha2-nistp256"],
    ] {
        let _ = tokio::fs::remove_file(gateway.path("known_hosts")).await;
        let options = [&options[..], &["-o", &identity]].concat();
        let (code, output, errors) = gateway.ssh(&options, b"hello").await;
        assert_eq!((code, &output[..]), (Some(7), &b"hello"[..]), "{options:?}: {errors}");
        assert!(errors.contains("Relayed."), "{errors}");
    }
}

#[tokio::test]
async fn client_learns_the_other_host_keys() {
    let gateway = Gateway::start().await;
    let options = ["-o", &gateway.identity(), "-o", "UpdateHostKeys=yes"];
    // A client that has only just come to know one key learns no others.
    for _ in 0..2 {
        let (code, _, errors) = gateway.ssh(&options, b"hello").await;
        assert_eq!(code, Some(7), "{errors}");
    }
    let known = tokio::fs::read_to_string(gateway.path("known_hosts")).await.unwrap();
    let has = |kind: &str| known.lines().any(|line| line.contains(kind));
    assert!(has("ssh-ed25519 ") && has("ecdsa-sha2-nistp256 "), "{known}");
}

#[tokio::test]
async fn data_arrives_whole_while_keys_are_replaced() {
    let gateway = Gateway::start().await;
    let (identity, data) = (gateway.identity(), random(DATA_LEN).await);
    for limit in ["RekeyLimit=default", "RekeyLimit=64K"] {
        let (code, output, errors) = gateway.ssh(&["-o", &identity, "-o", limit], &data).await;
        assert_eq!(code, Some(7), "{limit}: {errors}");
        assert!(output == data, "{limit}: {} of {} bytes, or others", output.len(), data.len());
    }
}

#[tokio::test]
async fn client_without_a_key_is_told_that_only_keys_count() {
    let gateway = Gateway::start().await;
    let (code, _, errors) = gateway.ssh(&["-o", "PubkeyAuthentication=no"], b"").await;
    assert_eq!(code, Some(255));
    assert!(errors.contains("Permission denied (publickey)."), "{errors}");
    let old = ["-o", "Ciphers=aes128-ctr", "-o", &gateway.identity()];
    let (code, _, errors) = gateway.ssh(&old, b"").await;
    assert_eq!(code, Some(255));
    assert!(errors.contains("no matching cipher found"), "{errors}");
}
