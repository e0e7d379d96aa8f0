//! Tests of what every VMM driver has to do, on a node whose control stands still: this takes its place. They go on with each other's VM, in
//! the order of [`TESTS`], and leave nothing.

mod control;
mod memory;
mod random;

pub use control::{Control, Place};
pub use random::any_of;

use anyhow::Result;

/// A test and its name, which is a promise.
pub type Test = (&'static str, fn(&mut Control) -> Result<()>);

/// Tests of guests that are taken out of time, and of operations at random.
pub const TESTS: &[Test] = &[
    (
        "paused_guest_stands_still_and_runs_on_in_the_right_time",
        memory::paused_guest_stands_still_and_runs_on_in_the_right_time,
    ),
    ("suspended_guest_goes_on_where_it_was", memory::suspended_guest_goes_on_where_it_was),
    ("guest_is_suspended_and_resumed_again", memory::guest_is_suspended_and_resumed_again),
    ("memory_of_another_disk_is_not_used", memory::memory_of_another_disk_is_not_used),
    ("memory_without_its_key_is_not_used", memory::memory_without_its_key_is_not_used),
    (
        "vmm_that_dies_while_it_is_saved_leaves_nothing",
        memory::vmm_that_dies_while_it_is_saved_leaves_nothing,
    ),
    ("silent_vmm_is_ended_and_leaves_nothing", memory::silent_vmm_is_ended_and_leaves_nothing),
    (
        "guest_that_stands_still_is_stopped_and_deleted",
        memory::guest_that_stands_still_is_stopped_and_deleted,
    ),
    (
        "random_suspensions_and_kills_leave_what_they_must",
        random::random_suspensions_and_kills_leave_what_they_must,
    ),
];
