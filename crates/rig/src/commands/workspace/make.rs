//! `rig workspace spawn` and `new`.

use super::wait::Watch;
use super::{boot, done};
use crate::api::{Api, GetWorkspace, NewWorkspace, Vm};
use crate::args::NewArguments;
use crate::failure::Failure;
use crate::name;
use crate::output::{Event, Output, Progress, plain};

pub(super) async fn new(api: &Api, out: &Output, arguments: &NewArguments) -> Result<(), Failure> {
    let name = name_of(arguments)?;
    let progress = out.progress();
    let made = create(api, out, &progress, arguments, &name).await?;
    let made = Watch::new(api, out, &progress).until(made, "provisioned").await?;
    drop(progress);
    done(out, "workspace_new", &made)
}

pub(super) async fn spawn(api: &Api, out: &Output, arguments: &NewArguments) -> Result<(), Failure> {
    let name = name_of(arguments)?;
    let progress = out.progress();
    out.event(&Event::Creating { name: &name })?;
    let made = create(api, out, &progress, arguments, &name).await?;
    for bump in bumps(arguments, &made.vm) {
        let Bump { resource, from_mb, to_mb } = bump;
        let reason = format!("the template `{}` needs at least {to_mb} MB", made.vm.template_id);
        out.event(&Event::FloorBumped { resource, from_mb, to_mb, reason: &reason })?;
    }
    out.event(&Event::Created { id: &made.vm.id, status: &made.vm.status })?;
    // Told in the order that programs know: the way to `provisioned` is part of making it.
    let made = Watch::new(api, out, &progress).quietly(made, "provisioned").await?;
    out.event(&Event::Starting)?;
    let running = boot(api, out, &progress, &made.vm).await?.vm;
    drop(progress);
    let ssh_user = format!("{}-{}", running.name, name::id_suffix(&running.id));
    let ssh_host = api.config().host();
    out.event(&Event::Ready { id: &running.id, name: &running.name, ssh_user: &ssh_user, ssh_host })?;
    let shown = plain(&running.name);
    out.say(&format!("{shown} ({}) is running: rig exec -it {shown} -- bash", plain(&running.id)))
}

async fn create(
    api: &Api,
    out: &Output,
    progress: &Progress,
    arguments: &NewArguments,
    name: &str,
) -> Result<GetWorkspace, Failure> {
    progress.now(&format!("making {name}"));
    let wanted = NewWorkspace {
        name,
        template_id: arguments.template.as_deref(),
        ram_mb: arguments.ram_mb,
        vcpu_count: arguments.vcpus,
        disk_size_mb: arguments.disk_mb,
    };
    let once = name::random_text::<26>().map_err(no_randomness)?;
    let made = api.create(&wanted, &once).await?;
    let template = &made.vm.template_id;
    if let Some(asked) = arguments.vcpus.filter(|asked| *asked < made.vm.vcpu_count) {
        out.warn(&format!(
            "{asked} vCPUs raised to {}, the least of template `{template}`",
            made.vm.vcpu_count
        ));
    }
    for Bump { resource, from_mb, to_mb } in bumps(arguments, &made.vm) {
        out.warn(&format!(
            "{resource}: {from_mb} MB raised to {to_mb} MB, the least of template `{template}`"
        ));
    }
    Ok(made)
}

/// A size that the template raised.
#[derive(Debug, PartialEq, Eq)]
struct Bump {
    resource: &'static str,
    from_mb: u32,
    to_mb: u32,
}

fn bumps(arguments: &NewArguments, made: &Vm) -> impl Iterator<Item = Bump> {
    [("ram", arguments.ram_mb, made.ram_mb), ("disk", arguments.disk_mb, made.disk_size_mb)]
        .into_iter()
        .filter_map(|(resource, asked, to_mb)| {
            asked.filter(|asked| *asked < to_mb).map(|from_mb| Bump { resource, from_mb, to_mb })
        })
}

fn name_of(arguments: &NewArguments) -> Result<String, Failure> {
    match arguments.name() {
        Some(name) => Ok(name.to_owned()),
        None => name::made_up().map_err(no_randomness),
    }
}

fn no_randomness(error: getrandom::Error) -> Failure {
    Failure::new("internal", format!("the system gives no random numbers: {error}"))
}
