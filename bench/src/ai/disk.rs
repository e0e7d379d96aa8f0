//! The disk below control's database: each reservation waits for it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use rigbox_testkit::report::median;

const WRITES: usize = 200;
/// Size of a small commit.
const WRITE_BYTES: usize = 16 * 1024;

/// Returns the milliseconds until a small write at the end of a file in `folder` is durable.
pub(super) fn sync_ms(folder: &Path) -> Result<f64> {
    let path = folder.join("sync");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..WRITES {
        let started = Instant::now();
        file.write_all(&[1; WRITE_BYTES])?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(path)?;
    Ok(median(&mut times))
}
