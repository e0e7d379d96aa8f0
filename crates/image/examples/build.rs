//! Builds an image: `cargo run --release -p rigbox-image --example build -- images/base`.

use std::path::Path;
use std::time::Instant;

use rigbox_image::{Error, Image, build, default_cache_dir};

fn main() -> Result<(), Error> {
    let recipe = std::env::args_os().nth(1).unwrap_or_else(|| "images/base".into());
    let started = Instant::now();
    let dir = build(Path::new(&recipe), &default_cache_dir()?, &mut |step| {
        println!("{:>6.1} s  {step}", started.elapsed().as_secs_f64());
    })?;
    println!(
        "{:>6.1} s  {} is {}",
        started.elapsed().as_secs_f64(),
        Image::load(&dir)?.version,
        dir.display()
    );
    Ok(())
}
