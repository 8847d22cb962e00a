//! Times the tests that guard linear time on hostile text.

/// Wall seconds of the work: the first of three tries that stays under a second, else the last one, because other
/// processes share the machine. Quadratic work on megabytes takes hours and fails all three.
pub(crate) fn seconds(work: impl Fn()) -> f64 {
    let mut seconds = f64::INFINITY;
    for _ in 0..3 {
        let start = std::time::Instant::now();
        work();
        seconds = start.elapsed().as_secs_f64();
        if seconds < 1.0 {
            break;
        }
    }
    seconds
}
