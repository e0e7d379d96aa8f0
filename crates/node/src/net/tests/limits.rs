//! Limits of a VM: its node's, and lower ones that come with its policy.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::{Duration, Instant};

use rigbox_core::egress::BlockedNetworks;
use rigbox_core::vm_limits::{MbPerS, NetworkLimits};
use rigbox_proto::node::{NetworkLimits as WireLimits, NetworkPolicy};

use super::established;
use crate::config::NetworkConfig;
use crate::net::admitted_names::AdmittedNames;
use crate::net::policy::Policy;
use crate::net::rules;
use crate::net::testbed::{self, SERVER, Testbed, at, echo, eventually};

/// Returns a policy with these limits and ports.
fn policy(limits: WireLimits, app_ports: &[u32]) -> Policy {
    let policy = NetworkPolicy { app_ports: app_ports.to_vec(), egress: None, limits: Some(limits) };
    policy.try_into().unwrap()
}

fn connections(connections: u32) -> WireLimits {
    WireLimits { connections: Some(connections), ..WireLimits::default() }
}

/// Opens connections to the server, and returns those that succeed.
fn connect(testbed: &Testbed, number: usize) -> Vec<TcpStream> {
    let attempts = (0..number).map(|_| testbed.guest.connect(at(SERVER, 80)));
    attempts.filter_map(Result::ok).collect()
}

#[test]
fn limits_of_the_configuration_and_lower_ones_of_a_policy_are_in_the_rules() {
    let limits = NetworkLimits {
        connections: NonZeroU32::new(11).unwrap(),
        new_connections_per_s: NonZeroU32::new(22).unwrap(),
        bandwidth_mb_per_s: MbPerS::new(33).unwrap(),
        bridge_connections: NonZeroU16::new(44).unwrap(),
        ..NetworkLimits::default()
    };
    let config = NetworkConfig { limits, ..NetworkConfig::default() };
    let lower = WireLimits {
        new_connections_per_s: Some(2),
        bandwidth_mb_per_s: Some(3),
        bridge_connections: Some(4),
        dns_queries_per_s: Some(5),
        ..connections(1)
    };
    let higher = WireLimits {
        new_connections_per_s: Some(23),
        bandwidth_mb_per_s: Some(34),
        bridge_connections: Some(45),
        ..connections(12)
    };
    let of_the_node = [
        "ct state new ct count over 11 drop",
        "limit rate over 22/second burst 44 packets drop",
        "limit rate over 33 mbytes/second burst 8 mbytes drop",
        "tcp dport 9090 ct state new ct count over 44 drop",
        "th dport 53 limit rate over 500/second",
    ];
    let of_the_policy = [
        "ct state new ct count over 1 drop",
        "limit rate over 2/second burst 4 packets drop",
        "limit rate over 3 mbytes/second burst 1 mbytes drop",
        "tcp dport 9090 ct state new ct count over 4 drop",
        "th dport 53 limit rate over 50/second",
    ];
    for (policy, expected) in [
        (Policy::default(), of_the_node),
        (policy(higher, &[]), of_the_node),
        (policy(lower, &[]), of_the_policy),
    ] {
        let rules = rules::full_ruleset(&config, &policy);
        for rule in expected {
            assert!(rules.contains(rule), "{rule}");
        }
    }
}

#[test]
fn lower_limit_of_a_policy_holds_in_the_vms_namespace_and_behind_it() {
    testbed::run(policy(connections(5), &[]), NetworkConfig::default(), |testbed| {
        echo(testbed.internet.listen(at(SERVER, 80)));
        let streams = connect(testbed, 7);
        assert_eq!(streams.len(), 5);
        eventually("all are open behind the VM", || established(testbed)[1..] == [5; 2]);
        // The VM's own namespace counts nothing, as if the VM had outwitted it.
        testbed.vm.nft("flush chain inet rigbox policy_out\ninsert rule inet rigbox egress accept");
        assert_eq!(connect(testbed, 2).len(), 0);
    });
}

#[test]
fn changed_limit_is_in_force_at_once_and_an_unchanged_one_keeps_its_count() {
    let limits = NetworkLimits { connections: NonZeroU32::new(10).unwrap(), ..NetworkLimits::default() };
    let config = NetworkConfig { limits, ..NetworkConfig::default() };
    testbed::run(policy(connections(5), &[]), config, |testbed| {
        let names = AdmittedNames::new(BlockedNetworks::default());
        echo(testbed.internet.listen(at(SERVER, 80)));
        let mut streams = connect(testbed, 5);
        assert_eq!(streams.len(), 5);
        // Another policy with the same limits, and a node that starts again.
        testbed.set_policy(&policy(connections(5), &[8000]), &names);
        assert_eq!(connect(testbed, 1).len(), 0);
        testbed.restore(&policy(connections(5), &[8000]));
        assert_eq!(connect(testbed, 1).len(), 0);
        // Another limit, up to the node's in all.
        testbed.set_policy(&policy(connections(8), &[8000]), &names);
        streams.extend(connect(testbed, 7));
        assert_eq!(streams.len(), 10);
        eventually("all are open behind the VM", || established(testbed)[1..] == [10; 2]);
        // Those that exist go on.
        for stream in &mut streams {
            stream.write_all(b"ping").unwrap();
            stream.read_exact(&mut [0; 4]).unwrap();
        }
        drop(streams);
        testbed.set_policy(&policy(connections(1), &[]), &names);
        assert_eq!(connect(testbed, 3).len(), 1);
        // Without a limit of its own, that of the node counts.
        testbed.set_policy(&Policy::default(), &names);
        eventually("earlier connections are over", || established(testbed)[1..] == [0; 2]);
        assert_eq!(connect(testbed, 12).len(), 10);
    });
}

#[test]
fn bandwidth_of_a_policy_is_all_that_a_vm_gets() {
    const MIB: usize = 1 << 20;
    let slow = WireLimits { bandwidth_mb_per_s: Some(1), ..WireLimits::default() };
    testbed::run(policy(slow, &[]), NetworkConfig::default(), |testbed| {
        let listener = testbed.internet.listen(at(SERVER, 80));
        let mut stream = testbed.guest.connect(at(SERVER, 80)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let started = Instant::now();
        let received = std::thread::spawn(move || server.read_exact(&mut vec![0; 6 * MIB]));
        stream.write_all(&vec![7; 6 * MIB]).unwrap();
        received.join().unwrap().unwrap();
        // The kernel lets pass the burst and what fits in a second, and then 1 MiB a second.
        let elapsed = started.elapsed();
        assert!(elapsed > Duration::from_millis(3_500), "6 MiB in {elapsed:?}");
    });
}

#[test]
fn kernel_counts_the_largest_limits() {
    let most = NonZeroU32::MAX;
    let limits = NetworkLimits {
        connections: most,
        new_connections_per_s: most,
        bandwidth_mb_per_s: MbPerS::new(MbPerS::MAX).unwrap(),
        bridge_connections: NonZeroU16::MAX,
        dns_queries: NonZeroU16::MAX,
        dns_queries_per_s: most,
    };
    let config = NetworkConfig { limits, ..NetworkConfig::default() };
    testbed::run(Policy::default(), config, |testbed| {
        echo(testbed.internet.listen(at(SERVER, 80)));
        testbed.guest.connect(at(SERVER, 80)).unwrap();
    });
}
