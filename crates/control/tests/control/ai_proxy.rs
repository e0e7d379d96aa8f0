//! The real proxy with the real control: tests of the operator's keys, and 200 streams at once of clients that vanish, while both sides are
//! killed. The sum of what is spent and reserved stays within the cap at each moment, and the records add up to what the provider would bill.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rigbox_control::admin::ai;
use rigbox_control::admin::provider_keys;
use rigbox_core::ai::money::Money;
use rigbox_proto::handover;
use rigbox_test_provider::Provider;
use rusqlite::{Connection, OpenFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::support::TestControl;

const EMAIL: &str = "a@example.com";
/// Streams at once.
const CALLS: usize = 200;
/// Credits in dollars: they do not do for all calls at once.
const CREDITS: u32 = 10;

/// Interval at which the account is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(1);

/// Proxy in a runtime of its own, so that it can be killed.
struct Proxy(Runtime);

impl Proxy {
    fn start(rig: &TestControl) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let config = rigbox_ai::Config {
            bridge: rigbox_ai::Peer { socket: rig.path("ai-bridge.sock"), uid: 0 },
            operator: rigbox_ai::Peer { socket: rig.path("ai-operator.sock"), uid: 0 },
            control_socket: rig.path("ai.sock"),
            api_socket: rig.path("bridge.sock"),
            extra_authorities: None,
            proxy: None,
            dns: Vec::new(),
            blocked_networks: Vec::new(),
            limits: rigbox_ai::Limits::default(),
        };
        let bound = rigbox_ai::bind(config).unwrap();
        runtime.spawn(async move { bound.run(std::future::pending()).await.unwrap() });
        Self(runtime)
    }

    /// Like `kill -9`.
    fn kill(self) {
        self.0.shutdown_background();
    }
}

/// The node's side: every connection to the returned address is one of the workspace.
async fn connect(rig: &TestControl, workspace: &str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (socket, workspace) = (rig.path("ai-bridge.sock"), workspace.to_owned());
    tokio::spawn(async move {
        let sender = Arc::new(handover::Sender::default());
        loop {
            let stream: OwnedFd = listener.accept().await.unwrap().0.into_std().unwrap().into();
            let (socket, workspace, sender) = (socket.clone(), workspace.clone(), sender.clone());
            // One that nobody takes is closed, as by a node whose proxy is away.
            tokio::task::spawn_blocking(move || drop(sender.send(&socket, &workspace, &stream)));
        }
    });
    address
}

/// Makes a call and reads some of the answer. Returns its status; 0 if there was none.
async fn call(bridge: std::net::SocketAddr, number: usize) -> u16 {
    let body = serde_json::json!({"model": "claude-opus-4-6", "max_tokens": 2000, "stream": true,
        "messages": [{"role": "user", "content": format!("[tokens:60][pause:20] {number}")}]});
    let body = body.to_string();
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: 172.16.0.1:9090\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let Ok(mut stream) = TcpStream::connect(bridge).await else { return 0 };
    let mut read = vec![0; 200 + number * 11];
    if stream.write_all(head.as_bytes()).await.is_err() {
        return 0;
    }
    let count = stream.read(&mut read).await.unwrap_or(0);
    // Half of the clients stay to the end.
    if number.is_multiple_of(2) {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    let text = String::from_utf8_lossy(&read[..count]).into_owned();
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Sums of the account: granted, spent and reserved.
fn account(database: &Connection) -> (i64, i64, i64) {
    let sums = "SELECT granted, spent, reserved FROM ai_accounts";
    database.query_row(sums, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
}

/// Record of a call that has ended.
struct Record {
    cost: i64,
    tokens: i64,
    is_exact: bool,
}

fn records(database: &Connection) -> BTreeMap<String, Record> {
    let text = "SELECT id, cost, input_tokens + output_tokens, estimated OR at_bound FROM ai_calls \
                WHERE ended_at IS NOT NULL";
    let mut statement = database.prepare(text).unwrap();
    let rows = statement.query_map([], |row| {
        let record = Record { cost: row.get(1)?, tokens: row.get(2)?, is_exact: !row.get::<_, bool>(3)? };
        Ok((row.get(0)?, record))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn operators_keys_are_tested_by_the_running_proxy() {
    let provider = Provider::start().await.unwrap();
    let rig = TestControl::with_provider(&provider.url()).await;
    let config = rig.config();
    let test =
        async |label: Option<&str>| provider_keys::test_provider_keys(&config, "anthropic", label).await;
    let set = async |label: &str, secret: &str| {
        let secret = secret.to_owned().into();
        provider_keys::set_provider_key(&config, "anthropic", label, "", &secret).await.unwrap()
    };
    assert!(test(None).await.unwrap_err().to_string().contains("has no such key"));
    set("good", "sk-operator-good").await;
    let bad = set("bad", "sk-operator-bad").await;
    provider.refuse_key("sk-operator-bad", 401);
    let away = test(None).await.unwrap_err().to_string();
    assert!(away.contains("see if it is up"), "{away}");
    let proxy = Proxy::start(&rig);
    let verdicts = async |label| -> Vec<String> {
        let tests = test(label).await.into_iter().flatten();
        tests.map(|(key, verdict)| format!("{} {verdict}", key.label)).collect()
    };
    let expected = ["good accepted", "bad refused: 401 authentication_error"];
    crate::support::eventually("each key has its verdict", || async { verdicts(None).await == expected })
        .await;
    assert_eq!(verdicts(Some("bad")).await, expected[1..]);
    assert_eq!(verdicts(Some("other")).await.len(), 0);
    provider_keys::remove_provider_key(&config, &bad.id).await.unwrap();
    assert_eq!(verdicts(None).await, expected[..1]);
    assert!(provider_keys::test_provider_keys(&config, "nowhere", None).await.is_err());
    proxy.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_at_once_with_kills_on_both_sides_stay_within_the_cap_and_add_up() {
    let provider = Provider::start().await.unwrap();
    let mut rig = TestControl::with_provider(&provider.url()).await;
    let workspace = rig.provisioned("web").await;
    provider_keys::set_provider_key(&rig.config(), "anthropic", "", "", &"sk-operator".into()).await.unwrap();
    ai::grant(&rig.config(), EMAIL, Money::from_dollars(CREDITS), false).await.unwrap();
    let proxy = Proxy::start(&rig);
    let bridge = connect(&rig, &workspace).await;
    crate::support::eventually("calls are made", || async { call(bridge, 0).await == 200 }).await;

    // Another process looks at the account all the time.
    let (path, is_over) = (rig.path("rigbox.db"), Arc::new(AtomicBool::new(false)));
    let open = move || Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let (watched, stop) = (open(), is_over.clone());
    let watcher = std::thread::spawn(move || {
        let (mut looks, mut most) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            let (granted, spent, reserved) = account(&watched);
            assert!(spent + reserved <= granted, "{spent} + {reserved} of {granted}");
            looks += 1;
            most = most.max(reserved);
            std::thread::sleep(SAMPLE_INTERVAL);
        }
        (looks, most)
    });
    let calls: Vec<_> = (0..CALLS).map(|number| tokio::spawn(call(bridge, number))).collect();
    tokio::time::sleep(Duration::from_millis(600)).await;
    proxy.kill();
    std::fs::remove_file(rig.path("ai-bridge.sock")).unwrap();
    let proxy = Proxy::start(&rig);
    // A thread of this process still takes connections for the one that is gone.
    let bridge = connect(&rig, &workspace).await;
    // What the killed proxy had open has cost all that it was reserved.
    ai::grant(&rig.config(), EMAIL, Money::from_dollars(CREDITS), false).await.unwrap();
    crate::support::eventually("calls are made again", || async { call(bridge, 1).await == 200 }).await;
    let more: Vec<_> = (0..CALLS).map(|number| tokio::spawn(call(bridge, number))).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    rig.kill_control();
    rig.start_control().await;
    let mut statuses = BTreeMap::<u16, usize>::new();
    for call in calls.into_iter().chain(more) {
        *statuses.entry(call.await.unwrap()).or_default() += 1;
    }
    let database = open();
    crate::support::eventually("all calls are settled", || async { account(&database).2 == 0 }).await;
    is_over.store(true, Ordering::Relaxed);
    let (looks, most) = watcher.join().expect("the cap holds");

    let (records, billed) = (records(&database), provider.billed());
    eprintln!("{statuses:?}, {} records, {looks} looks, at most {most} reserved", records.len());
    assert!(statuses.get(&200).is_some_and(|whole| *whole >= 100), "{statuses:?}");
    assert!(looks >= 100);
    assert_eq!(records.values().map(|record| record.cost).sum::<i64>(), account(&database).1);
    let mut exact = 0;
    for billed in &billed {
        let record = &records[&billed.call_id];
        let tokens = i64::try_from(billed.input + billed.output).unwrap();
        if record.is_exact {
            assert_eq!(record.tokens, tokens, "{}", billed.call_id);
            exact += 1;
        } else {
            // At the prices of the model, 5 and 25 dollars a million.
            let cost = billed.input * 5 + billed.output * 25;
            assert!(record.cost >= i64::try_from(cost).unwrap(), "{}", billed.call_id);
        }
    }
    assert!(exact >= 20, "{exact} of {} calls are exact", billed.len());
    proxy.kill();
}
