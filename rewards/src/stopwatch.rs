//! Times the tests that guard linear time on hostile text.

/// Processor seconds that this thread spends on the work, however busy the machine is: other processes take no part in
/// them. Quadratic work on megabytes takes hours.
pub(crate) fn seconds(work: impl Fn()) -> f64 {
    let start = processor_seconds();
    work();
    processor_seconds() - start
}

#[cfg(unix)]
fn processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Without such a clock the wall's does, on a machine that is not busy.
#[cfg(not(unix))]
fn processor_seconds() -> f64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_secs_f64()
}
