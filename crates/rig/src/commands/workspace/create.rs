//! `rig workspace spawn` and `new`.

use super::wait::{Waiter, unless_interrupted};
use super::{boot, print};
use crate::api::{Api, GetWorkspace, NewWorkspace, Vm};
use crate::args::{NewWorkspaceArguments, Wait};
use crate::failure::Failure;
use crate::name;
use crate::output::{Event, Output, Progress, escape};

pub(super) async fn new(api: &Api, out: &Output, arguments: &NewWorkspaceArguments) -> Result<(), Failure> {
    let name = name_of(arguments)?;
    let progress = out.progress();
    let created = create(api, out, &progress, arguments, &name).await?;
    let created = Waiter::new(api, out, &progress).until(created, "provisioned").await?;
    drop(progress);
    print(out, "workspace_new", &created)
}

pub(super) async fn spawn(
    api: &Api,
    out: &Output,
    arguments: &NewWorkspaceArguments,
    wait: Wait,
) -> Result<(), Failure> {
    let name = name_of(arguments)?;
    let progress = out.progress();
    out.event(&Event::Creating { name: &name })?;
    let created = create(api, out, &progress, arguments, &name).await?;
    for bump in bumps(arguments, &created.vm) {
        let Bump { resource, from_mb, to_mb } = bump;
        let reason = format!("the template `{}` needs at least {to_mb} MiB", created.vm.template_id);
        out.event(&Event::FloorBumped { resource, from_mb, to_mb, reason: &reason })?;
    }
    out.event(&Event::Created { id: &created.vm.id, status: &created.vm.status })?;
    // Programs rely on this order of events: provisioning is part of the creation.
    let waiter = Waiter::new(api, out, &progress);
    let created = unless_interrupted(waiter.quietly(created, "provisioned"), || {
        format!("{name} was created, but not started; start it with `rig workspace start {name}`")
    })
    .await?;
    out.event(&Event::Starting)?;
    let running = boot(api, out, &progress, &created.vm, wait).await?.vm;
    drop(progress);
    let ssh_user = format!("{}-{}", running.name, name::id_suffix(&running.id));
    let ssh_host = api.config().host();
    out.event(&Event::Ready { id: &running.id, name: &running.name, ssh_user: &ssh_user, ssh_host })?;
    let shown = escape(&running.name);
    out.line(&format!("{shown} ({}) is running: rig exec -it {shown} -- bash", escape(&running.id)))
}

async fn create(
    api: &Api,
    out: &Output,
    progress: &Progress,
    arguments: &NewWorkspaceArguments,
    name: &str,
) -> Result<GetWorkspace, Failure> {
    progress.set_message(&format!("creating {name}"));
    let new = NewWorkspace {
        name,
        template_id: arguments.template.as_deref(),
        ram_mb: arguments.ram_mb,
        vcpu_count: arguments.vcpus,
        disk_size_mb: arguments.disk_mb,
    };
    let idempotency_key = name::random_text::<26>().map_err(no_randomness)?;
    let created = api.create(&new, &idempotency_key).await?;
    let template = &created.vm.template_id;
    if let Some(asked) = arguments.vcpus.filter(|asked| *asked < created.vm.vcpu_count) {
        out.warn(&format!(
            "{asked} vCPUs raised to {}, the minimum of template `{template}`",
            created.vm.vcpu_count
        ));
    }
    for Bump { resource, from_mb, to_mb } in bumps(arguments, &created.vm) {
        out.warn(&format!(
            "{resource}: {from_mb} MiB raised to {to_mb} MiB, the minimum of template `{template}`"
        ));
    }
    Ok(created)
}

/// Size that was raised to the template's minimum.
#[derive(Debug, PartialEq, Eq)]
struct Bump {
    resource: &'static str,
    from_mb: u32,
    to_mb: u32,
}

fn bumps(arguments: &NewWorkspaceArguments, made: &Vm) -> impl Iterator<Item = Bump> {
    [("ram", arguments.ram_mb, made.ram_mb), ("disk", arguments.disk_mb, made.disk_size_mb)]
        .into_iter()
        .filter_map(|(resource, asked, to_mb)| {
            asked.filter(|asked| *asked < to_mb).map(|from_mb| Bump { resource, from_mb, to_mb })
        })
}

fn name_of(arguments: &NewWorkspaceArguments) -> Result<String, Failure> {
    match arguments.name() {
        Some(name) => Ok(name.to_owned()),
        None => name::random_name().map_err(no_randomness),
    }
}

fn no_randomness(error: getrandom::Error) -> Failure {
    Failure::new("internal", format!("no random numbers available: {error}"))
}
