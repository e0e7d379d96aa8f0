use std::io::{Read, Write};
use std::net::TcpStream;

use rigbox_proto::node::NetworkPolicy;
use rigbox_proto::node::egress::Mode;
use rustix::net::SocketType;

use super::super::testbed::{self, SERVER, Testbed, at, echo};
use super::*;
use crate::config::NetworkConfig;
use crate::net::{connect_checked, service_socket};

/// Returns whether a connecting socket gets connected within a second.
fn eventually_connected(stream: &TcpStream) -> bool {
    let deadline = Instant::now() + Duration::from_secs(1);
    while stream.peer_addr().is_err() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    stream.peer_addr().is_ok()
}

/// Returns a policy with an allow-list of names.
fn list(domains: &[&str]) -> Policy {
    let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
    let egress = rigbox_proto::node::Egress { mode: Mode::List.into(), domains, ..Default::default() };
    NetworkPolicy { app_ports: vec![], egress: Some(egress), limits: None }.try_into().unwrap()
}

#[test]
fn listed_name_opens_its_checked_ports_or_the_one_it_names() {
    let policy = list(&["server.example", "db.example:5432"]);
    testbed::run(policy.clone(), NetworkConfig::default(), move |testbed| {
        let names = Arc::new(AdmittedNames::new(BlockedNetworks::default()));
        let admit = |name: &str| admit(testbed, &names, &policy, &[(name, SERVER)]).remove(0);
        for port in [22, 80, 443, 5432, 8080] {
            echo(testbed.internet.listen(at(SERVER, port)));
        }
        let check = |port| service_socket(&testbed.netns_path, SocketType::STREAM, port).unwrap();
        let checks = [check(8443), check(8080)].map(std::net::TcpListener::from);
        let reached = |port| testbed.guest.connect(at(SERVER, port)).is_ok();
        let all = || [22, 80, 443, 5432, 8080].map(reached);

        assert_eq!(all(), [false; 5]);
        assert!(admit("other.example").is_err());
        admit("server.example").unwrap();
        assert_eq!(all(), [false, true, true, false, false]);
        // It is the checks that were reached, and not the server.
        for check in &checks {
            check.set_nonblocking(false).unwrap();
            let (stream, _) = check.accept().unwrap();
            let target = rustix::net::sockopt::ip_original_dst(&stream).unwrap();
            assert_eq!(target.ip(), &SERVER);
        }
        // The checks connect on behalf of the VM, to what is admitted.
        let checked = |address, port| {
            let socket = connect_checked(&testbed.netns_path, address, port).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.set_nonblocking(false).unwrap();
            for timeout in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
                timeout(&stream, Some(Duration::from_secs(1))).unwrap();
            }
            eventually_connected(&stream)
                && stream.write_all(b"ping").is_ok()
                && stream.read_exact(&mut [0; 4]).is_ok()
        };
        assert_eq!([80, 443, 5432].map(|port| checked(SERVER, port)), [true, true, false]);
        admit("db.example").unwrap();
        assert_eq!(all(), [false, true, true, true, false]);

        // A change ends what is open and not listed any more.
        let mut stream = testbed.guest.connect(at(SERVER, 5432)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut answers = move || {
            let answered = stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut [0; 4]));
            answered.is_ok()
        };
        assert!(answers());
        let changes =
            [(vec!["db.example:5432"], true, false), (vec!["db.example", "server.example"], false, true)];
        for (domains, database, checked) in changes {
            testbed.set_policy(&list(&domains), &names);
            assert_eq!(answers(), database, "{domains:?}");
            assert_eq!([reached(5432), reached(443)], [database, checked], "{domains:?}");
        }
    });
}

/// Admits addresses of names, all at once.
fn admit(
    testbed: &Testbed,
    names: &Arc<AdmittedNames>,
    policy: &Policy,
    all: &[(&str, Ipv4Addr)],
) -> Vec<Result<(), Error>> {
    let pool = AdmissionPool::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let admissions = all.iter().map(|(name, address)| {
        let ttl = Duration::from_secs(60);
        let admission = Admission { name: (*name).to_owned(), addresses: vec![*address], ttl };
        let (names, egress) = (Arc::clone(names), policy.egress().clone());
        let (pool, netns) = (pool.clone(), testbed.netns_path.clone());
        async move { names.admit(&pool, "ws-1", netns, || Some(egress), admission).await }
    });
    // Its blocking threads are started here, and so are in the test's namespaces.
    runtime.block_on(async {
        let tasks: Vec<_> = admissions.map(|admission| tokio::spawn(admission)).collect();
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await.unwrap());
        }
        results
    })
}

#[test]
fn admissions_change_the_rules_together_and_not_again_while_they_count() {
    let policy = list(&["*.example.org"]);
    testbed::run(policy.clone(), NetworkConfig::default(), move |testbed| {
        let names = Arc::new(AdmittedNames::new(BlockedNetworks::default()));
        let before = names.changes();
        let all: Vec<_> = (0..40u8)
            .map(|number| (format!("{number}.example.org"), Ipv4Addr::new(8, 8, 8, number)))
            .collect();
        let all: Vec<_> = all.iter().map(|(name, address)| (name.as_str(), *address)).collect();
        assert!(admit(testbed, &names, &policy, &all).iter().all(Result::is_ok));
        assert!((1..=4).contains(&(names.changes() - before)), "{} changes", names.changes() - before);
        // Another name of an address that is reachable for as long.
        let before = names.changes();
        assert!(
            admit(testbed, &names, &policy, &[("a.example.org", Ipv4Addr::new(8, 8, 8, 1)), all[0]])
                .iter()
                .all(Result::is_ok)
        );
        assert_eq!(names.changes(), before);
        assert!(admit(testbed, &names, &policy, &[("example.org", SERVER)])[0].is_err());
    });
}
