//! What the process holds in memory, as the system counts it.

/// The most that was resident at one time, in bytes; `None` where the system does not say.
#[must_use]
pub fn peak_bytes() -> Option<u64> {
    status_bytes("VmHWM")
}

/// What is resident now, in bytes; `None` where the system does not say.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS")
}

/// A line of `/proc/self/status`.
fn status_bytes(line: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = status.lines().find_map(|text| {
        text.strip_prefix(line)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    Some(kibibytes? * 1024)
}
