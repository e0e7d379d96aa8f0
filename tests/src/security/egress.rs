//! Egress of VMs: the public internet as far as the policy allows, and nothing else, whatever root in the VM sends.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::json;

use crate::TestResult;
use crate::harness::installation::Installation;
use crate::harness::internet::{self, GREETING, HOST, OTHER, RESOLVER, Recorder, SERVER, STREAM};
use crate::harness::roles;

tests![
    root_in_a_vm_reaches_only_the_internet,
    dns_answers_contain_no_private_address,
    allow_list_applies_to_names_addresses_and_open_connections,
    vm_opens_no_more_connections_than_its_share,
    vm_reaches_its_own_bridge_only,
    doctor_names_what_blocks_egress,
    host_network_settings_are_restored,
];

const ATTACKS: &str = include_str!("attacks.py");
const MARK: &[u8] = b"rigbox-attack-mark";

fn netns(installation: &Installation, id: &str) -> PathBuf {
    installation.run_dir().join("node/own/netns").join(id)
}

fn put(installation: &Installation, id: &str, path: &str, text: &str) -> TestResult {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(text);
    // In pieces: a command line has an end.
    for (number, part) in text.as_bytes().chunks(60_000).enumerate() {
        let to = if number == 0 { ">" } else { ">>" };
        installation.api.sudo(id, &format!("printf %s '{}' {to} {path}.b64", std::str::from_utf8(part)?))?;
    }
    installation.api.sudo(id, &format!("base64 -d {path}.b64 > {path}")).map(drop)
}

fn fetch(installation: &Installation, id: &str, place: &str) -> Result<bool> {
    let ran = installation.api.exec(id, &json!({"command": format!("curl -s -m 10 http://{place}/")}))?;
    Ok(ran.out() == GREETING)
}

/// Returns the workspaces that a VM's bridge lists.
fn bridge(installation: &Installation, id: &str) -> Result<String> {
    installation.api.sh(id, "curl -s -m 20 http://172.16.0.1:9090/rig/v1/workspaces")
}

fn root_in_a_vm_reaches_only_the_internet(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let (attacker, other) = (api.spawn("attacker")?, api.spawn("neighbour")?);
    ensure!(fetch(installation, &attacker, &SERVER.to_string())?, "the internet cannot be reached");
    let listeners = Listeners::start()?;
    let (outside, host) = (installation.internet.record()?, Recorder::start(&internet::host())?);
    let (neighbour, meeting) = (
        Recorder::start(&netns(installation, &other))?,
        Recorder::start(&installation.run_dir().join("node/own/egress"))?,
    );

    put(installation, &attacker, "/root/attacks.py", ATTACKS)?;
    let output = api.sudo(&attacker, &format!("python3 /root/attacks.py {HOST}"))?;
    ensure!(output.ends_with("reached nothing"), "{output}");
    ensure!(output.starts_with("sent 2"), "hardly anything was sent: {output}");

    let none = |seen: std::collections::BTreeMap<String, usize>, who: &str| -> TestResult {
        ensure!(seen.is_empty(), "{who} saw {seen:?}");
        Ok(())
    };
    none(outside.marked(MARK), "the internet")?;
    none(neighbour.marked(MARK), "the other VM")?;
    // The VM's network treats the host's public address as internet; the packets are dropped at the host.
    let but_for_host = |recorder: &Recorder| {
        let mut seen = recorder.marked(MARK);
        seen.retain(|what, _| !what.ends_with(&format!("-> {HOST}")));
        seen
    };
    none(but_for_host(&host), "the host's network")?;
    none(but_for_host(&meeting), "the egress namespace")?;
    listeners.heard_nothing()?;
    let ping = api.exec(&attacker, &json!({"command": format!("python3 - <<'E'\nimport os,socket\ns=socket.socket(socket.AF_INET,socket.SOCK_RAW,1)\ns.settimeout(2)\ns.sendto(b'\\x08\\0\\xf7\\xff\\0\\0\\0\\0',('{HOST}',0))\nprint(s.recvfrom(99)[1][0])\nE"), "user": "root"}))?;
    ensure!(ping.exit_code() != Some(0), "the host's public address answers: {}", ping.out());

    // Each of these would have seen it, and a packet that may pass does.
    api.sudo(&attacker, &format!("echo -n rigbox-attack-mark > /dev/udp/{SERVER}/40404"))?;
    eventually("the internet sees a packet", Duration::from_secs(5), || {
        let all = [&outside, &host, &meeting].map(|recorder| recorder.marked(MARK));
        let to_server = format!("-> {SERVER}");
        Ok(all.iter().all(|seen| seen.keys().any(|what| what.ends_with(&to_server))).then_some(()))
    })?;
    api.sudo(&other, "echo -n rigbox-attack-mark > /dev/udp/172.16.0.1/40404")?;
    eventually("the recorder at the other VM's wire", Duration::from_secs(5), || {
        Ok((!neighbour.marked(MARK).is_empty()).then_some(()))
    })?;
    listeners.would_hear()?;
    // Everything that came to the internet came from the host's address.
    let private = outside.sent_to(|to| !rigbox_core::egress::is_public(to));
    none(private, "the internet, for private addresses,")?;
    ensure!(fetch(installation, &attacker, &SERVER.to_string())?, "the VM cut itself off");

    // SMTP is blocked.
    let email =
        api.exec(&attacker, &json!({"command": format!("timeout 10 bash -c ': < /dev/tcp/{SERVER}/25'")}))?;
    ensure!(email.exit_code() == Some(1), "port 25: {}", email.end);
    api.remove(&attacker)?;
    api.remove(&other)
}

/// Services of the host, on all its addresses.
struct Listeners {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Listeners {
    fn start() -> Result<Self> {
        let (tcp, udp) = (TcpListener::bind("0.0.0.0:40405")?, UdpSocket::bind("0.0.0.0:40405")?);
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        Ok(Self { tcp, udp })
    }

    fn heard_nothing(&self) -> TestResult {
        let nothing =
            |error: Option<std::io::Error>| error.is_some_and(|e| e.kind() == ErrorKind::WouldBlock);
        ensure!(nothing(self.tcp.accept().err()), "the host accepted a connection");
        ensure!(nothing(self.udp.recv_from(&mut [0; 64]).err()), "the host received a packet");
        Ok(())
    }

    fn would_hear(&self) -> TestResult {
        let _caller = TcpStream::connect((HOST, 40405))?;
        UdpSocket::bind("0.0.0.0:0")?.send_to(MARK, (HOST, 40405))?;
        eventually("the host's own call", Duration::from_secs(5), || {
            Ok(self.tcp.accept().is_ok().then_some(()))
        })?;
        eventually("the host's own packet", Duration::from_secs(5), || {
            Ok(self.udp.recv_from(&mut [0; 64]).is_ok().then_some(()))
        })
    }
}

/// Resolves a name in the VM.
fn addresses(installation: &Installation, id: &str, name: &str) -> Result<String> {
    let ran = installation
        .api
        .exec(id, &json!({"command": format!("getent ahosts {name} | awk '{{print $1}}' | sort -u")}))?;
    Ok(ran.out())
}

fn dns_answers_contain_no_private_address(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let id = api.spawn("asker")?;
    ensure!(addresses(installation, &id, "server.example")? == SERVER.to_string(), "server.example");
    ensure!(fetch(installation, &id, "server.example")?, "a server cannot be reached by its name");
    // It has an IPv6 address, which is not requested from the resolver.
    ensure!(addresses(installation, &id, "nobody.example")?.is_empty(), "nobody.example");
    for name in ["inside.example", "metadata.example"] {
        let before = installation.internet.asked_for(name)?;
        ensure!(addresses(installation, &id, name)?.is_empty(), "{name} leads somewhere");
        ensure!(
            installation.internet.asked_for(name)? > before,
            "the resolver would have output where {name} is"
        );
    }
    // Responses that are too long for UDP use TCP.
    let ask = "import socket,struct\n\
        q=struct.pack('!6H',7,256,1,0,0,0)+b'\\4long\\7example\\0'+struct.pack('!2H',16,1)\n\
        u=socket.socket(2,2);u.settimeout(10);u.sendto(q,('172.16.0.1',53));r=u.recv(4096)\n\
        assert r[2]&2,'not cut'\n\
        t=socket.create_connection(('172.16.0.1',53),10);t.sendall(struct.pack('!H',len(q))+q)\n\
        f=t.makefile('rb');n,=struct.unpack('!H',f.read(2));print(f.read(n).count(b'x'))\n";
    put(installation, &id, "/tmp/ask.py", ask)?;
    ensure!(api.sh(&id, "python3 /tmp/ask.py")?.parse::<u32>()? >= 2000, "a long response");
    api.remove(&id)
}

/// Starts TLS on port 443 of the first argument with each of the other names as SNI (`-`: none; `plain`: no TLS).
const HELLO: &str = r#"
import socket, ssl, sys
for name in sys.argv[2:]:
    context = ssl.create_default_context()
    context.check_hostname = False
    out = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=None if name == "-" else name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello = b"GET / HTTP/1.0\r\n\r\n" if name == "plain" else out.read()
    try:
        stream = socket.create_connection((sys.argv[1], 443), 10)
        stream.settimeout(15)
        # In two pieces, as it may come.
        stream.sendall(hello[:7])
        stream.sendall(hello[7:])
        output = stream.recv(999)
    except OSError as error:
        output = b""
    print(name + (": answered" if b"hello" in output else ": nothing"))
"#;

fn allow_list_applies_to_names_addresses_and_open_connections(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let id = api.spawn("listed")?;
    let reaches = |place: &str| fetch(installation, &id, place);
    let (server, other) = (SERVER.to_string(), OTHER.to_string());

    // Connections that are open while the list comes.
    let streams = |place: &str, file: &str| {
        api.sh(&id, &format!("setsid nohup bash -c 'exec 3<>/dev/tcp/{place}/{STREAM}; while read -t 3 line <&3; do echo $line; echo >&3; done; echo over' > {file} 2>&1 </dev/null &"))
    };
    let length = |file: &str| -> Result<u64> { Ok(api.sh(&id, &format!("wc -c < {file}"))?.parse()?) };
    streams(&server, "to-server")?;
    streams(&other, "to-other")?;
    for file in ["to-server", "to-other"] {
        eventually("a stream begins", Duration::from_secs(20), || Ok((length(file)? > 50).then_some(())))?;
    }
    let cidrs = [format!("{SERVER}/32")];
    api.set_egress(&id, &json!({"mode": "list", "domains": ["server.example"], "cidrs": cidrs}))?;
    eventually("the stream that is not listed ends", Duration::from_secs(20), || {
        Ok(api.sh(&id, "tail -1 to-other")?.contains("over").then_some(()))
    })?;
    let goes_on = length("to-server")?;
    eventually("the listed stream goes on", Duration::from_secs(10), || {
        Ok((length("to-server")? > goes_on + 50).then_some(()))
    })?;
    ensure!(!api.sh(&id, "tail -1 to-server")?.contains("over"), "the listed stream ended");

    // By name only: the DNS response admits the address.
    api.set_egress(&id, &json!({"mode": "list", "domains": ["server.example"]}))?;
    ensure!(!reaches(&server)?, "an address that was not looked up");
    ensure!(reaches("server.example")?, "a listed name");
    ensure!(!reaches(&server)?, "a request for the address of a listed name, which is not the name");
    let other_host = format!("curl -s -m 10 -H 'Host: other.example' http://{server}/");
    ensure!(
        api.sh(&id, &other_host)?.contains("not on the workspace's list"),
        "another host at that address"
    );
    ensure!(!reaches("server.example:8080")?, "another port of a listed name");
    let refused = roles::refusals_during(installation, || {
        let before = installation.internet.asked_for("other.example")?;
        ensure!(!reaches("other.example")?, "a name that is not listed");
        ensure!(
            installation.internet.asked_for("other.example")? == before,
            "the name was sent to the resolver"
        );
        ensure!(!reaches(&other)?, "an address that is not listed");
        ensure!(!reaches(&format!("{other}:8080"))?, "another port of it");
        // Other resolvers, and tunnels through what is allowed.
        let tunnels = format!(
            "import socket\n\
             for kind,to in ((2,('{RESOLVER}',53)),(2,('{OTHER}',443)),(2,('{SERVER}',443))):\n\
             \x20 u=socket.socket(2,kind);u.settimeout(2);u.connect(to)\n\
             \x20 try: u.send(b'rigbox-tunnel');u.recv(99);print('through',to)\n\
             \x20 except OSError: pass\n"
        );
        put(installation, &id, "/tmp/tunnels.py", &tunnels)?;
        let outside = installation.internet.record()?;
        let output = api.sudo(&id, "python3 /tmp/tunnels.py; ping -c1 -W2 5.6.7.8 || true")?;
        ensure!(!output.contains("through") && outside.marked(b"rigbox-tunnel").is_empty(), "{output}");
        Ok(())
    })?;
    let seen = |protocol: &str, address: &str, port: u32, name: &str| {
        refused.iter().any(|one| {
            (one.workspace_id.as_str(), one.protocol.as_str()) == (&id, protocol)
                && (one.address.as_str(), one.port, one.name.as_str()) == (address, port, name)
                && one.count > 0
                && one.unix_ms > 1_700_000_000_000
        })
    };
    ensure!(seen("dns", "", 0, "other.example"), "a refused name is not told: {refused:?}");
    ensure!(seen("tcp", &other, 80, ""), "a refused connection is not told: {refused:?}");
    ensure!(seen("udp", &RESOLVER.to_string(), 53, ""), "a refused packet is not told: {refused:?}");

    // Port 443 of the address goes by the name that TLS asks for: other names may be at the same address.
    put(installation, &id, "/tmp/hello.py", HELLO)?;
    let output = api.sh(&id, "python3 /tmp/hello.py server.example server.example other.example - plain")?;
    ensure!(
        output == "server.example: answered\nother.example: nothing\n-: nothing\nplain: nothing",
        "{output}"
    );

    // An entry with a port opens that port, and only that.
    let with_port = ["server.example".to_owned(), format!("server.example:{STREAM}")];
    api.set_egress(&id, &json!({"mode": "list", "domains": with_port}))?;
    ensure!(
        reaches("server.example")? && !reaches("server.example:8080")?,
        "another port than the listed one"
    );
    // No network at all, open connections included.
    streams("server.example", "last")?;
    eventually("a stream begins", Duration::from_secs(20), || Ok((length("last")? > 50).then_some(())))?;
    api.set_egress(&id, &json!({"mode": "none"}))?;
    eventually("the last stream ends", Duration::from_secs(20), || {
        Ok(api.sh(&id, "tail -1 last")?.contains("over").then_some(()))
    })?;
    ensure!(!reaches("server.example")? && !reaches(&server)?, "nothing means nothing");

    // A restarted node keeps the policy. (Control is stopped, because it would send it again.)
    let rules = || -> Result<String> {
        let mut nft = std::process::Command::new("nsenter");
        nft.arg(format!("--net={}", netns(installation, &id).display())).args([
            "nft",
            "list",
            "chain",
            "inet",
            "rigbox",
            "policy_out",
        ]);
        Ok(String::from_utf8(nft.output()?.stdout)?)
    };
    ensure!(rules()?.contains("refuse") && !rules()?.contains("accept"), "{}", rules()?);
    installation.without_role("control", || {
        installation.kill_role("node")?;
        let boot = crate::security::gateway_dial::boot_of(installation, &id)?;
        eventually("the node has taken the VM over", Duration::from_secs(20), || {
            Ok((roles::dial(installation, &id, &boot, 80)?.err().as_deref() == Some("port_not_listed"))
                .then_some(()))
        })?;
        ensure!(rules()?.contains("refuse") && !rules()?.contains("accept"), "{}", rules()?);
        Ok(())
    })?;
    eventually("commands run again", Duration::from_secs(20), || Ok(api.sh(&id, "true").ok().map(drop)))?;
    api.set_egress(&id, &json!({"mode": "internet"}))?;
    ensure!(reaches(&other)? && reaches("other.example")?, "the internet again");
    api.remove(&id)
}

/// Starts a flow every 2.5 ms, for less than the 30 s after which an unanswered one expires. Each reports how many ms after the first
/// it was sent.
const FLOWS: &str = r#"
import socket, struct, sys, time
started = time.monotonic()
sent = 0
while (now := time.monotonic() - started) < 25:
    while sent < now * 400:
        flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        flow.bind(("", 10000 + sent))
        flow.sendto(b"rigbox-flow" + struct.pack("!I", int(now * 1000)), (sys.argv[1], 40404))
        flow.close()
        sent += 1
    time.sleep(0.01)
# At once: the first flows are forgotten soon.
try:
    socket.create_connection((sys.argv[1], 80), timeout=2)
    print(sent, "and one more")
except OSError:
    print(sent, "and no more")
"#;

fn vm_opens_no_more_connections_than_its_share(installation: &Installation) -> TestResult {
    // As in `vm.nft`: so many a second after a burst, and so many at once.
    let (burst, a_second, at_once) = (400, 200, 4096);
    let api = &installation.api;
    let id = api.spawn("greedy")?;
    put(installation, &id, "/tmp/flows.py", FLOWS)?;
    let outside = installation.internet.record()?;
    let printed = api.sh(&id, &format!("python3 /tmp/flows.py {SERVER}"))?;
    let (sent, more) = printed.split_once(" and ").context("output of the script")?;
    let sent: usize = sent.parse()?;
    // At the limit no further connection is possible. Connections to the bridge have a limit of their own.
    let output = bridge(installation, &id)?;
    ensure!(output.contains(&id), "the bridge says: {output}");

    let arrived: Vec<usize> = outside
        .datagrams(SERVER, b"rigbox-flow")
        .iter()
        .filter_map(|sent_at| Some(u32::from_be_bytes(sent_at.get(..4)?.try_into().ok()?) as usize))
        .collect();
    let early = arrived.iter().filter(|sent_at| **sent_at < 5_000).count();
    let told = format!("of {sent}, {} arrived, {early} of them in the first 5 s", arrived.len());
    eprintln!("{told}");
    ensure!(sent > at_once + 2 * burst, "the guest is too slow to tell: {told}");
    ensure!(early <= burst + 5 * a_second + a_second / 2 && early > a_second * 4, "{told}");
    ensure!(arrived.len() <= at_once && arrived.len() > at_once - burst, "{told}");
    ensure!(more == "no more", "there was room for another: {told}");
    eventually("there is room again", Duration::from_secs(60), || {
        Ok(fetch(installation, &id, &SERVER.to_string())?.then_some(()))
    })?;
    api.remove(&id)
}

fn vm_reaches_its_own_bridge_only(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let (one, two) = (api.spawn("bridged-one")?, api.spawn("bridged-two")?);
    for (id, other) in [(&one, &two), (&two, &one)] {
        let output = bridge(installation, id)?;
        ensure!(
            output.contains(id.as_str()) && !output.contains(other.as_str()),
            "the bridge of {id} says: {output}"
        );
    }
    // It outlives its ends, and no VM takes more than its share of it.
    for role in ["control", "node"] {
        installation.kill_role(role)?;
        eventually("the bridge is back", Duration::from_secs(30), || {
            let output = bridge(installation, &one)?;
            Ok(output.contains(&one).then_some(()))
        })?;
    }
    let many = "import socket\nheld=[]\nfor n in range(200):\n s=socket.socket();s.settimeout(3);held.append(s)\n try: s.connect(('172.16.0.1',9090))\n except OSError: break\nprint(n)\n";
    put(installation, &one, "/tmp/many.py", many)?;
    let most: u32 = api.sh(&one, "python3 /tmp/many.py")?.parse()?;
    ensure!((100..=130).contains(&most), "{most} connections at once");
    ensure!(bridge(installation, &two)?.contains(&two), "the other's bridge");
    api.remove(&one)?;
    api.remove(&two)
}

fn doctor_names_what_blocks_egress(installation: &Installation) -> TestResult {
    // The node's last report is cached for a few seconds.
    let says = |wanted: &str| {
        eventually(wanted, Duration::from_secs(20), || {
            let output = installation.api.get("/doctor")?.expect(200)?;
            let findings = output["findings"].as_array().cloned().unwrap_or_default();
            let network = findings.iter().find(|finding| finding["subject"] == "network");
            let message = network.and_then(|finding| finding["message"].as_str()).unwrap_or_default();
            ensure!(message.contains(wanted), "it says: {message}");
            Ok(Some(()))
        })
    };
    says("VMs reach the internet through eth0")?;
    let forwarding = "/proc/sys/net/ipv4/conf/eth0/forwarding";
    std::fs::write(forwarding, "0")?;
    let off = says("net.ipv4.conf.eth0.forwarding is not 1");
    std::fs::write(forwarding, "1")?;
    off?;
    internet::run("iptables-legacy", &["-P", "FORWARD", "DROP"])?;
    let old = says("chain `FORWARD` of iptables-legacy drops");
    internet::run("iptables-legacy", &["-P", "FORWARD", "ACCEPT"])?;
    old?;
    internet::run("nft", &["add", "table", "ip", "other"])?;
    let chain = "add chain ip other way { type filter hook forward priority 0; policy drop; }";
    internet::run("nft", &[chain])?;
    let new = says("chain `ip other way` drops");
    internet::run("nft", &["delete", "table", "ip", "other"])?;
    new?;
    says("VMs reach the internet through eth0")
}

fn host_network_settings_are_restored(installation: &Installation) -> TestResult {
    let (device, table) = (format!("rb-{}", installation.id), format!("inet rigbox_{}", installation.id));
    let has = || -> Result<[bool; 3]> {
        let rules = std::process::Command::new("nft").args(["list", "tables"]).output()?.stdout;
        Ok([
            std::fs::read_to_string("/proc/net/dev")?.contains(&device),
            String::from_utf8(rules)?.contains(&table),
            std::fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/forwarding")?.trim() == "1",
        ])
    };
    ensure!(has()? == [true; 3], "the uplink is not there: {:?}", has()?);
    installation.kill_supervisor()?;
    let purged =
        installation.command("rigboxd").args(["purge", "--config"]).arg(installation.config()).status()?;
    ensure!(purged.success(), "rigboxd purge");
    ensure!(has()? == [false; 3], "left on the host: {:?}", has()?);
    ensure!(!std::fs::read_to_string("/proc/self/mountinfo")?.contains(&installation.id), "a mount is left");
    installation.start_supervisor()?;
    installation.wait_ready()
}
