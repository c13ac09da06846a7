//! The images of one sandbox, all at once; who looks at the sandbox meanwhile reads how far they are.

use super::Failure;
use crate::runtime::image::{Ask, Image, Progress};
use crate::sandbox::Sandbox;
use futures::future::try_join_all;
use proto::spec::SandboxSpec;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, interval_at};

/// How often it is told how far pulls are, and how long one may take without a word: each time is a write of the whole
/// cluster, and a person who waits looks up as often.
const TOLD_EVERY: Duration = Duration::from_secs(3);

/// A pull for who watches it: what is pulled, and how far it is.
type View = (String, watch::Receiver<Progress>);

/// The images, in the order of the containers.
pub(super) async fn pull(sandbox: &Sandbox, spec: &SandboxSpec) -> Result<Vec<Arc<Image>>, Failure> {
    let mut views: Vec<View> = Vec::new();
    let mut pulls = Vec::new();
    for container in &spec.containers {
        let failure = |source| Failure::Image {
            container: container.name.clone(),
            source: Box::new(source),
        };
        let pull = sandbox.host.images.fetch(&container.image, Ask::IfMissing);
        let pull = pull.map_err(failure)?;
        // Two containers of one image wait for one pull.
        if pull.is_under_way() && views.iter().all(|(image, _)| *image != container.image) {
            views.push((container.image.clone(), pull.progress()));
        }
        pulls.push(async move { pull.await.map_err(failure) });
    }
    let pulled = try_join_all(pulls);
    tokio::pin!(pulled);
    let mut tell = interval_at(Instant::now() + TOLD_EVERY, TOLD_EVERY);
    loop {
        tokio::select! {
            biased;
            pulled = &mut pulled => return pulled,
            _ = tell.tick() => {
                let now = views.iter().map(|(image, progress)| (image.as_str(), *progress.borrow()));
                // Not kept: the next report is one without it.
                let mut report = sandbox.report.clone();
                report.message = message(now);
                sandbox.host.reports.set(report);
            }
        }
    }
}

/// What a user reads; images that are here already are left out.
fn message<'a>(pulls: impl Iterator<Item = (&'a str, Progress)>) -> String {
    let coming = pulls.filter(|(_, now)| now.layers == 0 || now.layers_done < now.layers);
    let told: Vec<String> = coming
        .map(|(image, now)| format!("pulling {image}: {now}"))
        .collect();
    told.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pulls: &[(&str, u64, u64)], want: &str) {
        let pulls = pulls.iter().map(|(image, layers_done, layers)| {
            let progress = Progress {
                layers_done: *layers_done,
                layers: *layers,
                bytes_done: 1 << 20,
                bytes: 2 << 20,
            };
            (*image, progress)
        });
        assert_eq!(message(pulls), want);
    }

    #[test]
    fn message_tells_of_what_is_still_coming() {
        check(&[], "");
        check(&[("a", 0, 0)], "pulling a: asking its registry");
        check(&[("a", 3, 3)], "");
        check(
            &[("a", 1, 3), ("b", 2, 2), ("c", 0, 1)],
            "pulling a: 1 of 3 layers, 1.0 of 2.0 MiB; pulling c: 0 of 1 layers, 1.0 of 2.0 MiB",
        );
    }
}
