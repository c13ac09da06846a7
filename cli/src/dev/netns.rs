//! Network namespaces, kept alive by a bind mount below their member's folder.

use super::DevError;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::path::Path;

/// Makes a namespace and pins it at `path`.
pub(super) fn pin(path: &Path) -> Result<(), DevError> {
    File::create(path).map_err(DevError::io("create", path))?;
    let failed = |act| {
        move |source| DevError::Namespace {
            act,
            path: path.to_owned(),
            source,
        }
    };
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(failed("make"))?;
        mount(
            Some("/proc/thread-self/ns/net"),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(failed("pin"))
    })
}

/// Removes the pin; none there is none to remove.
pub(super) fn unpin(path: &Path) -> Result<(), DevError> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(source) => {
            return Err(DevError::Namespace {
                act: "unpin",
                path: path.to_owned(),
                source,
            });
        }
    }
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(DevError::io("remove", path)(source)),
    }
}

/// Runs `act` inside the namespace pinned at `path`. Processes that it starts are inside as well.
pub(super) fn within<T: Send>(
    path: &Path,
    act: impl FnOnce() -> Result<T, DevError> + Send,
) -> Result<T, DevError> {
    let file = File::open(path).map_err(DevError::io("open", path))?;
    on_a_thread(|| {
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(|source| DevError::Namespace {
            act: "enter",
            path: path.to_owned(),
            source,
        })?;
        act()
    })
}

/// A namespace belongs to a thread: one that ends with the act changes nobody else's.
fn on_a_thread<T: Send>(act: impl FnOnce() -> Result<T, DevError> + Send) -> Result<T, DevError> {
    std::thread::scope(|scope| match scope.spawn(act).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
