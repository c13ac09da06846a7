//! `test-images`: the stand-in images of [`e2e::image`] on the command line, for `deploy/quickstart.sh`.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use e2e::image;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Small images made of this machine's busybox, in place of well-known ones.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Push them to a registry
    Push {
        /// Its address, such as http://127.0.0.1:5000
        #[arg(long)]
        registry: String,
    },
    /// Write them to one archive in the OCI image layout
    Archive {
        #[arg(long)]
        out: PathBuf,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Push { registry } => {
            let registry = registry.trim_end_matches('/');
            let mut stdout = std::io::stdout().lock();
            for (name, digest) in image::push_all(registry)? {
                writeln!(stdout, "{name} {digest}")?;
            }
        }
        Command::Archive { out } => {
            let mut images = Vec::new();
            for image in image::stand_ins()? {
                let built = image
                    .build()
                    .with_context(|| format!("cannot build {}", image.repository))?;
                images.push((image, built));
            }
            let fail = || format!("cannot write {}", out.display());
            let file = std::fs::File::create(&out).with_context(fail)?;
            image::oci_archive(&images, BufWriter::new(file)).with_context(fail)?;
        }
    }
    Ok(())
}
