//! Simulated guests: they answer after a while, or never, and end as they like.

use std::sync::Arc;

use rigbox_proto::guestio::{AgentLost, AgentReady, GuestEnded, guest_ended, report};

use crate::world::World;

/// Longest time that a boot takes, in ms. A start's timeout is longer.
const MAX_BOOT_MS: u64 = 6_000;

pub(crate) fn ready() -> report::Report {
    report::Report::AgentReady(AgentReady::default())
}

pub(crate) fn ended(cause: guest_ended::Cause) -> report::Report {
    report::Report::GuestEnded(GuestEnded { cause: cause.into(), detail: "simulated".into() })
}

/// Life of the guest in a process.
pub(crate) async fn run(world: Arc<World>, pid: i32) {
    world.pause(MAX_BOOT_MS).await;
    let Some(boot) = boot_of(&world, pid) else { return };
    if world.disturbs(30) {
        world.note(format!("{boot}: never answers"));
        return;
    }
    {
        let mut machine = world.machine();
        if let Some(vm) = machine.vms.get_mut(&pid) {
            vm.is_ready = true;
        }
        machine.report(&boot, ready());
    }
    while !world.is_calm() {
        world.pause(60_000).await;
        if world.is_calm() || boot_of(&world, pid).is_none() {
            return;
        }
        match world.random.below(12) {
            0 => return end(&world, pid, guest_ended::Cause::Poweroff),
            1 => return end(&world, pid, guest_ended::Cause::Reboot),
            2 => return end(&world, pid, guest_ended::Cause::KernelPanic),
            3 => {
                world.note(format!("{boot}: its VMM dies"));
                return world.machine().kill(pid);
            }
            4 => {
                let lost = report::Report::AgentLost(AgentLost { reason: "simulated".into() });
                world.machine().report(&boot, lost);
                world.pause(20_000).await;
                world.machine().report(&boot, ready());
            }
            _ => {}
        }
    }
}

/// Response of a guest that is asked to power off.
pub(crate) async fn shut_down(world: Arc<World>, boot: String) {
    world.pause(4_000).await;
    if world.disturbs(100) {
        world.note(format!("{boot}: does not shut down"));
        return;
    }
    let pid = {
        let machine = world.machine();
        machine.vms.iter().find(|(_, vm)| vm.boot == boot && vm.is_ready).map(|(pid, _)| *pid)
    };
    if let Some(pid) = pid {
        end(&world, pid, guest_ended::Cause::Poweroff);
    }
}

fn end(world: &World, pid: i32, cause: guest_ended::Cause) {
    let mut machine = world.machine();
    if !machine.is_alive(pid) {
        return;
    }
    let Some(vm) = machine.vms.get_mut(&pid).filter(|vm| vm.ended.is_none()) else { return };
    vm.ended = Some(cause);
    let boot = vm.boot.clone();
    world.note(format!("{boot}: {cause:?}"));
    machine.report(&boot, ended(cause));
}

/// Returns the boot of a process that is alive and whose guest has not ended.
fn boot_of(world: &World, pid: i32) -> Option<String> {
    let machine = world.machine();
    if !machine.is_alive(pid) {
        return None;
    }
    machine.vms.get(&pid).filter(|vm| vm.ended.is_none()).map(|vm| vm.boot.clone())
}
