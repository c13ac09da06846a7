//! How glibc's allocator keeps memory.

/// In all, however many threads and processors there are.
const ARENAS: libc::c_int = 2;

/// Threads that block come by the hundred in a burst of sandboxes and go again. By default each of them has an arena, up
/// to eight for each processor, whose free memory is of no use to others and is not given back. The agent allocates
/// little at once. Called before there are threads; does nothing with another C library.
pub(crate) fn share_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two numbers; it is unsafe only beside threads that allocate.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}
