//! `sbxlet image`: works on the images of this node, beside an agent that runs or without one.
//!
//! The folder of images has one owner at a time, who serves it to others. Where an agent runs, this asks it; where none
//! does, this owns the folder for as long as it takes, and asks itself, so that there is one way for all. Data goes to
//! stdout, progress to stderr.

use agent::run::RunError;
use agent::runtime::image::{ImageError, ImageStore, Progress, connect};
use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use proto::wire;
use proto::wire::node_images_client::NodeImagesClient;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::transport::Channel;

/// Hexadecimal digits of a digest that a table shows; Docker shows as many.
const SHORT_DIGEST: usize = 12;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Lists the images of this node
    Ls {
        /// As a list in JSON
        #[arg(long)]
        json: bool,
        /// Only their names
        #[arg(long, short, conflicts_with = "json")]
        quiet: bool,
    },
    /// Pulls images, also where they are here already: their registries may have newer ones
    Pull {
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Only those that are not here
        #[arg(long)]
        missing: bool,
    },
    /// Takes in images from archives: OCI image layouts, or the work of docker save
    Import {
        #[arg(required = true, value_name = "ARCHIVE")]
        archives: Vec<PathBuf>,
    },
    /// Writes images to one archive, which is replaced where it is there
    Export {
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        #[arg(long, short, value_name = "ARCHIVE")]
        output: PathBuf,
        #[arg(long, value_enum, default_value_t = Format::Oci)]
        format: Format,
    },
    /// Removes images that no sandbox uses
    Rm {
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Removes all images that no sandbox uses
    Prune {
        /// Only those that were not used for so long, such as 24h
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        unused_for: Option<Duration>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    /// An OCI image layout
    Oci,
    /// As docker save writes
    Docker,
}

/// Runs `command` on the images in the folder `root`, which `open` opens where nobody else has.
///
/// # Errors
/// What the command was about, and why it failed.
pub(crate) async fn run(
    root: &Path,
    open: impl FnOnce() -> Result<ImageStore, RunError>,
    command: ImageCommand,
) -> anyhow::Result<()> {
    let (mut images, _own) = reach(root, open).await?;
    match command {
        ImageCommand::Ls { json, quiet } => list(&mut images, json, quiet).await,
        ImageCommand::Pull {
            images: names,
            missing,
        } => {
            for name in names {
                pull(&mut images, name, !missing).await?;
            }
            Ok(())
        }
        ImageCommand::Import { archives } => {
            for archive in archives {
                let path = sent(&archive)?;
                let request = wire::ImportImagesRequest { path };
                let taken = images.import_images(request).await.map_err(said)?;
                print(&taken.into_inner().references)?;
            }
            Ok(())
        }
        ImageCommand::Export {
            images: names,
            output,
            format,
        } => {
            let mut request = wire::ExportImagesRequest {
                images: names,
                path: sent(&output)?,
                ..wire::ExportImagesRequest::default()
            };
            request.set_format(match format {
                Format::Oci => wire::ArchiveFormat::Oci,
                Format::Docker => wire::ArchiveFormat::Docker,
            });
            let exported = images.export_images(request).await.map_err(said)?;
            let size = exported.into_inner().size_bytes;
            print(&[format!("{} {}", output.display(), bytes(size))])
        }
        ImageCommand::Rm { images: names } => {
            let request = wire::RemoveImagesRequest { images: names };
            removed(images.remove_images(request).await)
        }
        ImageCommand::Prune { unused_for } => {
            let unused_for = unused_for.unwrap_or_default().as_millis();
            let request = wire::PruneImagesRequest {
                unused_for_ms: u64::try_from(unused_for).context("that is too long a time")?,
            };
            removed(images.prune_images(request).await)
        }
    }
}

/// The images, and what serves them where this process does.
async fn reach(
    root: &Path,
    open: impl FnOnce() -> Result<ImageStore, RunError>,
) -> anyhow::Result<(NodeImagesClient<Channel>, Option<AbortOnDropHandle<()>>)> {
    let own = match open() {
        Err(RunError::Images(ImageError::InUse { .. })) => None,
        Err(error) => return Err(error.into()),
        Ok(store) => {
            let listening = store.listen()?;
            let serving = async move {
                if let Err(error) = listening.serve(CancellationToken::new()).await {
                    tracing::warn!(%error, "the images are not served any more");
                }
            };
            Some(AbortOnDropHandle::new(tokio::spawn(serving)))
        }
    };
    Ok((connect(root).await?, own))
}

async fn list(images: &mut NodeImagesClient<Channel>, json: bool, quiet: bool) -> anyhow::Result<()> {
    let listed = images
        .list_images(wire::ListImagesRequest {})
        .await
        .map_err(said)?;
    let listed = listed.into_inner().images;
    if json {
        let all: Vec<_> = listed.iter().map(as_json).collect();
        return print(&[serde_json::to_string_pretty(&all)?]);
    }
    if quiet {
        let names: Vec<_> = listed.into_iter().map(|image| image.reference).collect();
        return print(&names);
    }
    let width = listed.iter().map(|i| i.reference.len()).max().unwrap_or(0).max(9);
    let line = |name: &str, digest: &str, layers: &str, size: &str, used: &str| {
        format!("{name:width$}  {digest:SHORT_DIGEST$}  {layers:>6}  {size:>10}  {used}")
    };
    let mut lines = vec![line("REFERENCE", "DIGEST", "LAYERS", "SIZE", "LAST USED")];
    lines.extend(listed.iter().map(|image| {
        let digest = image.digest.trim_start_matches("sha256:");
        let digest = digest.get(..SHORT_DIGEST).unwrap_or(digest);
        let used = if image.in_use {
            "now".to_owned()
        } else {
            time(image)
        };
        let layers = image.layers.to_string();
        line(&image.reference, digest, &layers, &bytes(image.size_bytes), &used)
    }));
    print(&lines)
}

fn as_json(image: &wire::NodeImage) -> serde_json::Value {
    serde_json::json!({
        "reference": image.reference,
        "digest": image.digest,
        "layers": image.layers,
        "size_bytes": image.size_bytes,
        "used_at": time(image),
        "in_use": image.in_use,
    })
}

fn time(image: &wire::NodeImage) -> String {
    let since = Duration::from_millis(u64::try_from(image.used_at_ms).unwrap_or(0));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

async fn pull(images: &mut NodeImagesClient<Channel>, image: String, always: bool) -> anyhow::Result<()> {
    let mut progress = Line::new(image.clone());
    let request = wire::PullImageRequest { image, always };
    let mut steps = images.pull_image(request).await.map_err(said)?.into_inner();
    while let Some(step) = steps.message().await.map_err(said)? {
        progress.show(&step);
        if let Some(image) = step.image {
            progress.end();
            return print(&[format!("{} {}", image.reference, image.digest)]);
        }
    }
    bail!("the program that pulls has ended; try again")
}

/// How far a pull is, on stderr: one line that changes on a terminal, else one for each layer.
struct Line {
    image: String,
    is_terminal: bool,
    layers_told: Option<u64>,
}

impl Line {
    fn new(image: String) -> Self {
        Self {
            image,
            is_terminal: std::io::stderr().is_terminal(),
            layers_told: None,
        }
    }

    fn show(&mut self, step: &wire::PullImageProgress) {
        let now = Progress {
            layers_done: step.layers_done,
            layers: step.layers,
            bytes_done: step.bytes_done,
            bytes: step.bytes,
        };
        let mut stderr = std::io::stderr();
        if now.layers == 0 {
            return;
        }
        // Who closes stderr does not want to know.
        if self.is_terminal {
            write!(stderr, "\r{}: {now}\x1b[K", self.image).ok();
        } else if self.layers_told != Some(now.layers_done) {
            writeln!(stderr, "{}: {now}", self.image).ok();
        }
        self.layers_told = Some(now.layers_done);
    }

    fn end(&self) {
        if self.is_terminal && self.layers_told.is_some() {
            writeln!(std::io::stderr()).ok();
        }
    }
}

fn removed(removed: Result<tonic::Response<wire::RemovedImages>, Status>) -> anyhow::Result<()> {
    let removed = removed.map_err(said)?.into_inner();
    print(&removed.references)?;
    writeln!(
        std::io::stderr(),
        "{} removed, {} freed",
        removed.references.len(),
        bytes(removed.freed_bytes)
    )
    .ok();
    Ok(())
}

fn print(lines: &[String]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    for line in lines {
        writeln!(stdout, "{line}").context("write the answer")?;
    }
    Ok(())
}

/// As who serves can find it.
fn sent(path: &Path) -> anyhow::Result<String> {
    let absolute = std::path::absolute(path).with_context(|| format!("find {}", path.display()))?;
    let text = absolute.into_os_string().into_string();
    text.map_err(|path| anyhow::anyhow!("{} is not UTF-8", path.display()))
}

/// With one decimal, in the unit that keeps it short.
fn bytes(bytes: u64) -> String {
    let (unit, shift) = match bytes {
        0..0x10_0000 => ("KiB", 10),
        0x10_0000..0x4000_0000 => ("MiB", 20),
        0x4000_0000.. => ("GiB", 30),
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// The words of who serves, which say all.
fn said(status: Status) -> anyhow::Error {
    anyhow::Error::msg(status.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[track_caller]
    fn check(size: u64, want: &str) {
        assert_eq!(bytes(size), want);
    }

    #[test]
    fn sizes_are_short() {
        check(0, "0.0 KiB");
        check(1536, "1.5 KiB");
        check(1 << 20, "1.0 MiB");
        check((1 << 30) - 1, "1023.9 MiB");
        check(5 << 30, "5.0 GiB");
    }
}
