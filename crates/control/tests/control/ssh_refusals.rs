//! Times of refused log-ins by SSH, with the gateway and control as they are: no refusal tells by its time who is known.

use std::time::{Duration, Instant};

use reqwest::Method;
use rigbox_control::admin;
use rigbox_core::plans::Plan;
use rigbox_ssh::Limits;
use rigbox_ssh::authentication::{log_in_request, refused};
use rigbox_ssh_keys::log_in::{CONNECTION, PUBLIC_KEY, USERAUTH_REQUEST};
use rigbox_ssh_keys::private_key::PrivateKey;
use rigbox_ssh_keys::wire::Message;
use serde_json::json;

use crate::support::TestControl;
use crate::support::browser::Browser;
use crate::support::ssh_gateway::SshGateway;

/// Step at which a gateway refuses.
const STEP: Duration = Duration::from_millis(25);
/// Largest difference between medians. It is what a timer and two wake-ups take; a step, which is the least by which a refusal that is late
/// differs from one that is not, is five times as long.
const TOLERANCE: Duration = Duration::from_millis(5);
/// Refusals of each kind of keys that are only offered, and of those that have signed: the gateway stops to answer after 30 of the latter
/// by one name.
const OFFERS: usize = 40;
const SIGNATURES: usize = 8;
/// Requests of one connection, below the number at which the gateway ends it.
const OFFERS_PER_CONNECTION: usize = 60;
const SIGNATURES_PER_CONNECTION: usize = 5;
/// Number of the kinds whose keys are not registered, which come first.
const UNREGISTERED: usize = 3;
/// Attempts, each of which adds its times: on a busy machine one kind may wait for a step more by chance.
const ATTEMPTS: usize = 3;

/// Kind of refusal: user name and key.
struct Kind {
    what: &'static str,
    user: String,
    key: PrivateKey,
}

/// Returns the times of `count` refusals of each kind, which take turns.
async fn times(
    gateway: &SshGateway,
    kinds: &[Kind],
    count: usize,
    per_connection: usize,
    request: impl Fn(&Kind, &[u8]) -> Vec<u8>,
) -> Vec<Vec<Duration>> {
    let mut times = vec![Vec::new(); kinds.len()];
    let mut connection = None;
    for n in 0..count * kinds.len() {
        if n % per_connection == 0 {
            connection = Some(gateway.connect().await);
        }
        let connection = connection.as_mut().unwrap();
        let kind = &kinds[n % kinds.len()];
        let request = request(kind, connection.session_id().unwrap());
        let begin = Instant::now();
        connection.send(&request).await.unwrap();
        let answer = connection.receive().await.unwrap();
        times[n % kinds.len()].push(begin.elapsed());
        assert_eq!(answer, refused(), "{}", kind.what);
    }
    times
}

fn key(n: u8) -> PrivateKey {
    PrivateKey::ed25519(&[n; 32]).unwrap()
}

/// Returns the request whether a key would do.
fn offer(kind: &Kind) -> Vec<u8> {
    let request = Message::new(USERAUTH_REQUEST).string(&kind.user).string(CONNECTION).string(PUBLIC_KEY);
    request.boolean(false).string(kind.key.algorithm()).string(kind.key.public()).into_bytes()
}

fn add(all: &mut [Vec<Duration>], more: Vec<Vec<Duration>>) {
    all.iter_mut().zip(more).for_each(|(all, more)| all.extend(more));
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

/// Makes the users, keys and workspaces that refusals are about.
async fn kinds(rig: &TestControl) -> Vec<Kind> {
    let (own, theirs, deleted) = (key(1), key(2), key(3));
    let id = rig.running("web").await;
    let register = async |key: &PrivateKey| {
        let body = json!({"name": "laptop", "public_key": key.public_line()});
        rig.call(Method::POST, "/ssh-keys", Some(body)).await.1["id"].as_str().unwrap().to_owned()
    };
    register(&own).await;
    let gone = register(&deleted).await;
    assert_eq!(rig.call(Method::DELETE, &format!("/ssh-keys/{gone}"), None).await.0, 200);
    admin::add_user(&rig.config(), "b@example.com", Plan::Free).await.unwrap();
    let other = Browser::signed_in(rig, "b@example.com").await;
    let body = json!({"name": "theirs", "public_key": theirs.public_line()});
    let request = other.request(Method::POST, "/api/v1/ssh-keys").header("origin", rig.console());
    assert_eq!(rig.send(request.json(&body)).await.status, 201);
    let known = format!("web-{}", id.trim_start_matches("ws-"));
    let unknown = "web-aaaaaaaa".to_owned();
    vec![
        Kind { what: "unregistered key, known name", user: known.clone(), key: key(9) },
        Kind { what: "unregistered key, unknown name", user: unknown.clone(), key: key(9) },
        Kind { what: "deleted key, known name", user: known.clone(), key: deleted },
        Kind { what: "registered key, unknown name", user: unknown, key: own },
        Kind { what: "another user's key, known name", user: known, key: theirs },
    ]
}

/// Returns the medians if they differ, or are not those of whole steps.
fn difference(kinds: &[Kind], times: &[Vec<Duration>]) -> Option<String> {
    let medians: Vec<_> = times.iter().map(|times| median(times)).collect();
    let (least, most) = (*medians.iter().min()?, *medians.iter().max()?);
    let shown: Vec<_> =
        kinds.iter().zip(&medians).map(|(kind, at)| format!("{}: {at:?}", kind.what)).collect();
    println!("{}", shown.join(", "));
    (least < STEP || most - least > TOLERANCE).then(|| shown.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_takes_the_same_time_whoever_is_known() {
    let rig = TestControl::with_gateways().await;
    let kinds = kinds(&rig).await;
    let sign = |kind: &Kind, session_id: &[u8]| log_in_request(session_id, &kind.user, &kind.key).unwrap();
    // One that is registered would do for some name, and is not refused before it has signed.
    let (unregistered, _) = kinds.split_at(UNREGISTERED);
    let mut offered = vec![Vec::new(); UNREGISTERED];
    let mut signed = vec![Vec::new(); kinds.len()];
    let mut found = String::new();
    for _ in 0..ATTEMPTS {
        // It remembers whom it has refused.
        let gateway = SshGateway::start(&rig, Limits::default()).await;
        let offers = times(&gateway, unregistered, OFFERS, OFFERS_PER_CONNECTION, |kind, _| offer(kind));
        add(&mut offered, offers.await);
        add(&mut signed, times(&gateway, &kinds, SIGNATURES, SIGNATURES_PER_CONNECTION, sign).await);
        let different = [difference(unregistered, &offered), difference(&kinds, &signed)];
        if different.iter().all(Option::is_none) {
            return;
        }
        found = format!("offered and signed: {different:#?}");
    }
    panic!("{found}");
}
