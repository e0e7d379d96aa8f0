//! Fuzz target of the packet log: netlink messages of the kernel around headers that a guest wrote.

use super::*;

/// Smallest attribute with the destination of a packet.
const MIN_ATTRIBUTE_BYTES: usize = 4 + 20;

fn all(batch: &[u8]) -> Vec<Destination> {
    let mut found = Vec::new();
    parse_batch(batch, |destination| found.push(destination));
    found
}

#[test]
fn packet_log() {
    bolero::check!(name = "packet_log").for_each(|batch: &[u8]| {
        let found = all(batch);
        assert!(found.len() <= batch.len() / MIN_ATTRIBUTE_BYTES);
        for destination in &found {
            let Destination::Address { protocol, port, .. } = destination else { panic!("{destination:?}") };
            assert!(*port == 0 || matches!(protocol, 6 | 17), "only TCP and UDP have ports");
        }
        // A batch that is cut off loses its end and nothing else.
        let half = all(batch.get(..batch.len() / 2).unwrap());
        assert!(found.starts_with(&half), "{half:?}");
    });
}
