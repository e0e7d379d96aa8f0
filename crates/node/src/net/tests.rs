//! Promises of the rules, kept by real sockets through real namespaces.

mod limits;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use rigbox_core::egress::BlockedNetworks;
use rigbox_core::vm_limits::NetworkLimits;
use rustix::net::SocketType;
use rustix::net::sockopt::set_socket_linger;

use super::admitted_names::AdmittedNames;
use super::policy::Policy;
use super::testbed::{self, HOST, OFFICE, SERVER, Testbed, at, echo, eventually};
use super::uplink;
use crate::command;
use crate::config::NetworkConfig;

/// Returns how many connections to the server are established in the table of each namespace: VM, egress, host.
fn established(testbed: &Testbed) -> [usize; 3] {
    [&testbed.vm, &testbed.egress, &testbed.host].map(|netns| {
        let connections = netns.connections(None);
        connections.iter().filter(|line| line.contains("ESTABLISHED") && line.contains("dport=80 ")).count()
    })
}

#[test]
fn vm_cannot_end_a_connection_in_its_own_network_only() {
    testbed::run(Policy::default(), NetworkConfig::default(), |testbed| {
        echo(testbed.internet.listen(at(SERVER, 80)));
        for ttl in 1..=3 {
            let stream = testbed.guest.connect(at(SERVER, 80)).unwrap();
            stream.set_ttl(ttl).unwrap();
            // To close it sends a reset.
            set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }
        // Behind the three resets comes a fourth connection.
        let stream = testbed.guest.connect(at(SERVER, 80)).unwrap();
        eventually("all are open everywhere", || established(testbed) == [4; 3]);
        // A reset that arrives everywhere ends a connection everywhere.
        set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        drop(stream);
        eventually("a reset ends a connection", || established(testbed) == [3; 3]);
    });
}

#[test]
fn nothing_passes_a_closed_link_and_what_was_open_goes_on_afterwards() {
    testbed::run(Policy::default(), NetworkConfig::default(), |testbed| {
        echo(testbed.internet.listen(at(SERVER, 80)));
        let mut open = testbed.guest.connect(at(SERVER, 80)).unwrap();
        for _ in 0..2 {
            super::set_link(&testbed.netns_path, false).unwrap();
        }
        let error = testbed.guest.connect(at(SERVER, 80)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        // To the host's end of the link, and from it.
        testbed.guest.connect(at(super::HOST_ADDRESS, 9090)).unwrap_err();
        assert!(testbed.vm.connect(at(super::VM_ADDRESS, 22)).is_err());
        // Another policy does not open it.
        testbed.set_policy(&Policy::default(), &AdmittedNames::new(BlockedNetworks::default()));
        testbed.guest.connect(at(SERVER, 80)).unwrap_err();
        open.write_all(b"late").unwrap();
        for _ in 0..2 {
            super::set_link(&testbed.netns_path, true).unwrap();
        }
        open.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut answer = [0; 4];
        open.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"late");
        testbed.guest.connect(at(SERVER, 80)).unwrap();
    });
}

#[test]
fn connections_are_limited_behind_the_vm_too_and_forgotten_when_it_ends() {
    let limits = NetworkLimits { connections: NonZeroU32::new(20).unwrap(), ..NetworkLimits::default() };
    let limits = NetworkConfig { limits, ..NetworkConfig::default() };
    testbed::run(Policy::default(), limits, |testbed| {
        echo(testbed.internet.listen(at(SERVER, 80)));
        // The VM's own namespace counts nothing, as if the VM had outwitted it.
        testbed.vm.nft("flush chain inet rigbox policy_out\ninsert rule inet rigbox egress accept");
        let streams: Vec<_> = (0..22).map(|_| testbed.guest.connect(at(SERVER, 80))).collect();
        assert_eq!(streams.iter().filter(|stream| stream.is_ok()).count(), 20);
        assert_eq!(established(testbed)[1..], [20; 2]);
        let timeouts: BTreeSet<bool> = testbed
            .host
            .connections(None)
            .iter()
            .map(|line| line.split_whitespace().nth(4).unwrap().parse::<u32>().unwrap() <= 7440)
            .collect();
        assert_eq!(timeouts, BTreeSet::from([true]), "connections are remembered for longer");
        super::remove(&testbed.netns_path, Some(&testbed.uplink)).unwrap();
        for netns in [&testbed.egress, &testbed.host] {
            assert_eq!(netns.connections(None), Vec::<String>::new());
        }
    });
}

#[test]
fn all_vms_together_leave_room_in_the_hosts_connection_table() {
    let limits = NetworkConfig { total_connections: Some(64), ..NetworkConfig::default() };
    testbed::run(Policy::default(), limits, |testbed| {
        echo(testbed.internet.listen(at(SERVER, 80)));
        let mut stream = testbed.guest.connect(at(SERVER, 80)).unwrap();
        let streams: Vec<_> = (0..400)
            .map(|_| {
                let stream = testbed.guest.udp(at(super::VM_ADDRESS, 0));
                stream.send_to(b"hello", at(SERVER, 40404)).unwrap();
                stream
            })
            .collect();
        let table =
            testbed.host.run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap());
        let in_use = table.lines().filter(|line| line.contains("dport=40404")).count();
        assert!((20..=64).contains(&in_use), "{in_use} of {}", streams.len());
        // Those that exist go on.
        stream.write_all(b"ping").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
    });
}

#[test]
fn platform_addresses_and_blocked_networks_are_not_reached() {
    let blocked = BlockedNetworks::new(&["5.6.7.0/24".parse().unwrap()]);
    let config = NetworkConfig { blocked, ..NetworkConfig::default() };
    testbed::run(Policy::default(), config, |testbed| {
        let refused = ["168.63.129.16", "5.6.7.8", "10.9.0.2"].map(|address| address.parse().unwrap());
        for address in refused {
            testbed.internet.ip(&format!("address add {address}/32 dev lo"));
            echo(testbed.internet.listen(at(address, 80)));
        }
        for address in refused {
            let error = testbed.guest.connect(at(address, 80)).unwrap_err();
            // At once, not by a timeout.
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{address}");
        }
        echo(testbed.internet.listen(at(SERVER, 80)));
        testbed.guest.connect(at(SERVER, 80)).unwrap();
    });
}

#[test]
fn queries_are_limited_by_the_packet() {
    testbed::run(Policy::default(), NetworkConfig::default(), |testbed| {
        let server = super::service_socket(&testbed.netns_path, SocketType::DGRAM, 53).unwrap();
        let server = std::net::UdpSocket::from(server);
        rustix::net::sockopt::set_socket_recv_buffer_size(&server, 16 << 20).unwrap();
        let client = testbed.guest.udp(at(super::VM_ADDRESS, 0));
        client.connect(at(super::HOST_ADDRESS, 53)).unwrap();
        // After an answer they belong to one established flow.
        client.send(b"first").unwrap();
        let mut buffer = [0; 64];
        eventually("the first query", || {
            server.recv_from(&mut buffer).is_ok_and(|(_, from)| server.send_to(b"answer", from).is_ok())
        });
        assert_eq!(client.recv(&mut buffer).unwrap(), 6);
        let started = Instant::now();
        for _ in 0..20_000 {
            client.send(b"query").unwrap();
        }
        eventually("the flood has passed", || started.elapsed() > Duration::from_secs(1));
        let mut received = 0;
        while server.recv_from(&mut buffer).is_ok() {
            received += 1;
        }
        let allowed = 1000 + 500 * (started.elapsed().as_secs() + 1);
        assert!((500..=allowed).contains(&received), "{received} of 20,000");
    });
}

#[test]
fn bridge_carries_large_bodies() {
    testbed::run(Policy::default(), NetworkConfig::default(), |testbed| {
        let bridge = super::service_socket(&testbed.netns_path, SocketType::STREAM, 9090).unwrap();
        let bridge = std::net::TcpListener::from(bridge);
        bridge.set_nonblocking(false).unwrap();
        let mut client = testbed.guest.connect(at(super::HOST_ADDRESS, 9090)).unwrap();
        let (mut server, _) = bridge.accept().unwrap();
        let body = vec![7; 16 << 20];
        let sent = std::thread::spawn(move || client.write_all(&body));
        let started = Instant::now();
        server.read_exact(&mut vec![0; 16 << 20]).unwrap();
        sent.join().unwrap().unwrap();
        // A third of a second on an idle machine; the other tests flood theirs meanwhile.
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    });
}

#[test]
fn host_is_a_router_for_nobody_else() {
    testbed::run(Policy::default(), NetworkConfig::default(), |testbed| {
        let Testbed { host, internet, office, .. } = testbed;
        echo(office.listen(at(OFFICE, 80)));
        echo(internet.listen(at(SERVER, 80)));
        internet.ip(&format!("route add 10.9.0.0/24 via {HOST}"));
        assert!(internet.connect(at(OFFICE, 80)).is_err());
        assert!(office.connect(at(SERVER, 80)).is_err(), "the host forwards by itself");
        testbed.guest.connect(at(SERVER, 80)).unwrap();
        // Container engines turn forwarding on for all devices, publish ports by DNAT, and masquerade.
        host.nft(&format!(
            "add table ip engine
             add chain ip engine before {{ type nat hook prerouting priority dstnat; }}
             add rule ip engine before iifname eth0 tcp dport 8083 dnat to {OFFICE}:80
             add chain ip engine after {{ type nat hook postrouting priority srcnat; }}
             add rule ip engine after ip saddr 10.9.0.0/24 oifname eth0 masquerade"
        ));
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        office.connect(at(SERVER, 80)).unwrap();
        internet.connect(at(HOST, 8083)).unwrap();
        assert!(internet.connect(at(OFFICE, 80)).is_err());
        uplink::close(&testbed.config).unwrap();
        let setting = std::fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/forwarding").unwrap();
        assert_eq!(setting.trim(), "1", "the engine needs it");
    });
}

#[test]
fn nat_of_others_leads_no_vm_into_the_host_or_behind_it() {
    testbed::run(Policy::default(), NetworkConfig::default(), |testbed| {
        let Testbed { host, internet, office, guest, .. } = testbed;
        echo(office.listen(at(OFFICE, 80)));
        echo(host.listen(at(Ipv4Addr::UNSPECIFIED, 9999)));
        for port in [80, 8081, 8082, 8084] {
            echo(internet.listen(at(SERVER, port)));
        }
        let all = || [80, 8081, 8082, 8084].map(|port| guest.connect(at(SERVER, port)).is_ok());
        assert_eq!(all(), [true; 4]);
        host.nft(&format!(
            "add table ip other
             add chain ip other before {{ type nat hook prerouting priority dstnat; }}
             add rule ip other before tcp dport 8081 redirect to :9999
             add rule ip other before tcp dport 8082 dnat to {OFFICE}:80
             add rule ip other before tcp dport 8084 dnat to {HOST}:9999"
        ));
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        assert_eq!(all(), [true, false, false, false]);
        // The rules do lead there.
        internet.connect(at(HOST, 8081)).unwrap();
        internet.connect(at(HOST, 8082)).unwrap();
    });
}

#[test]
fn kernels_memory_for_a_connection_of_a_vm_is_bounded() {
    const MAX_BYTES: u64 = 512 << 10;
    testbed::run(Policy::default(), NetworkConfig::default(), |testbed| {
        for setting in ["tcp_rmem", "tcp_wmem"] {
            let path = format!("/proc/sys/net/ipv4/{setting}");
            let sizes = testbed.vm.run(move || std::fs::read_to_string(path).unwrap());
            let sizes: Vec<u64> = sizes.split_whitespace().map(|size| size.parse().unwrap()).collect();
            assert_eq!(sizes, [4096, 64 << 10, MAX_BYTES], "{setting}");
        }
        // A connection to the bridge that nobody reads, until its sender has to wait.
        let bridge = super::service_socket(&testbed.netns_path, SocketType::STREAM, 9090).unwrap();
        let bridge = std::net::TcpListener::from(bridge);
        bridge.set_nonblocking(false).unwrap();
        let mut client = testbed.guest.connect(at(super::HOST_ADDRESS, 9090)).unwrap();
        let (server, _) = bridge.accept().unwrap();
        client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        while client.write(&[7; 64 << 10]).is_ok() {}
        let unread = rustix::io::ioctl_fionread(&server).unwrap();
        assert!((1..=MAX_BYTES).contains(&unread), "{unread} bytes");
    });
}

#[test]
fn holder_of_a_socket_takes_no_port_of_a_service() {
    testbed::run(Policy::default(), NetworkConfig::default(), |testbed| {
        let bind = |port| {
            testbed.vm.run(move || {
                use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
                // As a gateway: without privileges.
                let mut sets = capabilities(None).unwrap();
                sets.effective = CapabilitySet::empty();
                set_capabilities(None, sets).unwrap();
                std::net::TcpListener::bind(at(super::HOST_ADDRESS, port))
                    .map(drop)
                    .map_err(|error| error.kind())
            })
        };
        for port in [53, 8080, 8443, 9090, 32_767] {
            assert_eq!(bind(port), Err(std::io::ErrorKind::PermissionDenied), "{port}");
        }
        assert_eq!(bind(0), Ok(()));
    });
}

#[test]
fn address_of_no_slot_is_in_the_uplinks_own_network() {
    for slot in [1, 256, 0xa9fe, 65_519] {
        let address = uplink::vm_address(slot);
        assert!(!address.is_link_local() && address != uplink::GATEWAY, "{address}");
    }
    // Nor in the network of the one that there is.
    testbed::run(Policy::default(), NetworkConfig::default(), |testbed| {
        echo(testbed.internet.listen(at(SERVER, 80)));
        let own =
            testbed.egress.run(|| command::run("ip", &["-4", "-o", "address", "show", "uplink"]).unwrap());
        let own: Ipv4Addr = own.split([' ', '/']).find_map(|word| word.parse().ok()).unwrap();
        let [_, _, high, low] = own.octets();
        // The slot whose address was the uplink's.
        let slot = u32::from(u16::from_be_bytes([high, low]));
        testbed.vm.run(|| uplink::detach().unwrap());
        testbed.uplink.attach(&testbed.netns_path, slot).unwrap();
        testbed.guest.connect(at(SERVER, 80)).unwrap();
    });
}
