//! Whom the kernel kills first where memory is short in a sandbox, or on the node: containers, which it can tell
//! about, and not the monitor, which has to.

use std::io;

const OOM_SCORE: &str = "/proc/self/oom_score_adj";
/// In thousandths of all memory that the kernel adds to what a process uses: as Kubernetes' pods that may be
/// sacrificed, before anything that the node itself runs.
const OF_CONTAINERS: &str = "500";

/// Runs `act`, which makes processes that inherit the containers' score, and whatever it does to ours.
pub(super) fn of_containers<T>(act: impl FnOnce() -> T) -> io::Result<T> {
    let own = std::fs::read_to_string(OOM_SCORE)?;
    std::fs::write(OOM_SCORE, OF_CONTAINERS)?;
    let done = act();
    std::fs::write(OOM_SCORE, own.trim())?;
    Ok(done)
}
