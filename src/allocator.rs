//! How the C library's allocator keeps memory.
//!
//! Left to itself, glibc raises the size from which it takes pieces from the system, and returns them to it, to that of
//! the largest piece below 32 MiB that was ever given up. Smaller ones then come from arenas, where what is freed
//! between pieces in use stays with the process: with a model of 135 million parameters that was 215 MiB after four steps.

/// Pieces of at least so many bytes are taken from the system and returned to it one by one. Nearly all that grows with
/// the model and its batches is larger; the tiles that a pass takes and gives up all the time are smaller.
pub const RETURNED_BYTES_MIN: usize = 1 << 20;

/// What an arena keeps at its end for the next pieces: enough that the tiles of a pass do not make it shrink and grow.
pub const KEPT_BYTES_MAX: usize = 4 << 20;

/// Has large pieces returned to the system as soon as they are free. To be called before the first thread starts.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn return_large_pieces() {
    for (parameter, bytes) in
        [(libc::M_MMAP_THRESHOLD, RETURNED_BYTES_MIN), (libc::M_TRIM_THRESHOLD, KEPT_BYTES_MAX)]
    {
        // SAFETY: mallopt takes the allocator's own lock and changes two of its limits, which hold for pieces that are
        // made later; no memory is touched. It is called while no other thread runs.
        let set = unsafe { libc::mallopt(parameter, bytes as libc::c_int) };
        assert_eq!(set, 1, "glibc takes every size below 32 MiB");
    }
}

/// Other allocators return large pieces of themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_large_pieces() {}
