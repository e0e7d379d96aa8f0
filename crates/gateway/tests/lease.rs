//! A gateway's lease beside clocks that jump: it ends when the machine has slept for longer, although no timer has gone on, and what begins
//! it again is control's word alone.

// clippy's exemption for tests does not cover helpers outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rigbox_core::ids::WorkspaceId;
use rigbox_gateway::control_client::ControlClient;
use rigbox_gateway::epochs::Epochs;
use rigbox_gateway::lease::{Effects, follow};
use rigbox_sys::clock::since_boot;
use rigbox_testkit::eventually;
use rigbox_testkit::gateway::{Gateway, WORKSPACE};

const LEASE: Duration = Duration::from_secs(60);

/// Time that the machine has slept, in ms.
static SLEPT_MS: AtomicU64 = AtomicU64::new(0);

/// Clock of a machine that goes to sleep when the test wants it.
fn clock() -> Duration {
    since_boot() + Duration::from_millis(SLEPT_MS.load(Ordering::SeqCst))
}

#[tokio::test]
async fn lease_and_decisions_end_with_a_sleep_that_is_longer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.sock");
    let control = Gateway::start(&path, LEASE);
    let epochs = Arc::new(Epochs::with_clock(clock));
    let lapses = Arc::new(AtomicU64::new(0));
    let (followed, lapsed) = (Arc::clone(&epochs), Arc::clone(&lapses));
    tokio::spawn(async move {
        let effects = Effects {
            changed: |_: &_| {},
            lapsed: || {
                lapsed.fetch_add(1, Ordering::SeqCst);
            },
            assertion_keys: |_| {},
        };
        follow(&ControlClient::new(&path), &followed, &effects).await;
    });
    eventually("the lease is in force", async || epochs.is_leased()).await;
    let (began, decided) = (Instant::now(), epochs.current());
    let workspace: WorkspaceId = WORKSPACE.parse().unwrap();

    // A short sleep costs no more than it has lasted.
    SLEPT_MS.fetch_add(1_000, Ordering::SeqCst);
    assert!(epochs.is_leased());
    assert!(epochs.is_workspace_current(&workspace, decided));

    // After a long one nothing that was decided before counts, before any timer or event has told so.
    control.fall_silent();
    SLEPT_MS.fetch_add(u64::try_from(LEASE.as_millis()).unwrap(), Ordering::SeqCst);
    assert!(!epochs.is_leased());
    assert!(began.elapsed() < LEASE, "the lease was over anyhow");

    // The next word comes too late for the lease that was, and begins a new one.
    control.speak();
    eventually("a new lease is in force", async || epochs.is_leased()).await;
    assert_eq!(lapses.load(Ordering::SeqCst), 1, "what is open has ended");
    assert!(!epochs.is_workspace_current(&workspace, decided));
    assert!(!epochs.are_grants_current(decided));
}
