//! `rig limits`.

use serde_json::{Map, Value};

use crate::api::Api;
use crate::failure::Failure;
use crate::output::{Output, escape};

/// Rows of the table: what is limited, the limit, its usage, and whether they are sizes in MiB.
const ROWS: [(&str, &str, Option<&str>, bool); 6] = [
    ("workspaces", "max_vms", Some("workspace_count"), false),
    ("memory", "max_ram_total_mb", Some("total_ram_mb"), true),
    ("memory of one workspace", "max_ram_per_vm_mb", None, true),
    ("disk", "max_disk_total_mb", Some("total_disk_mb"), true),
    ("vCPUs of running workspaces", "max_running_vcpus", Some("running_vcpus"), false),
    ("vCPUs of one workspace", "max_vcpu_per_vm", None, false),
];
/// Limits from here on are none.
const UNLIMITED: u64 = i32::MAX as u64;

pub(super) async fn run(api: &Api, out: &Output) -> Result<(), Failure> {
    let response: Map<String, Value> = api.get(&["users", "me", "limits"]).await?;
    let plan = response.get("plan").and_then(Value::as_str).unwrap_or("?");
    out.line(&format!("Plan {}", escape(plan)))?;
    out.line("")?;
    let number = |part: &str, name: &str| response.get(part)?.get(name)?.as_u64();
    let rows = ROWS.iter().map(|(what, limit, usage, is_size)| {
        let shown = |value: Option<u64>| match value {
            None => "-".to_owned(),
            Some(UNLIMITED..) => "unlimited".to_owned(),
            Some(mb) if *is_size => size(mb),
            Some(count) => count.to_string(),
        };
        let used = usage.and_then(|name| number("usage", name));
        vec![(*what).to_owned(), shown(used), shown(number("limits", limit))]
    });
    out.table(&["WHAT", "USED", "LIMIT"], rows)?;
    out.response("limits", response)
}

/// Returns a size in the unit that people use for it.
fn size(mb: u64) -> String {
    if mb < 1024 {
        return format!("{mb} MiB");
    }
    let tenths = mb * 10 / 1024;
    match tenths % 10 {
        0 => format!("{} GiB", tenths / 10),
        rest => format!("{}.{rest} GiB", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_has_one_digit_after_the_point_at_most() {
        for (mb, text) in
            [(0, "0 MiB"), (512, "512 MiB"), (1024, "1 GiB"), (1536, "1.5 GiB"), (10_240, "10 GiB")]
        {
            assert_eq!(size(mb), text);
        }
    }
}
