//! Small loops over `f32` slices, compiled for each instruction set and chosen at run time.
//!
//! Every loop here is plain Rust written so that LLVM vectorizes it; [`vectorized`] runs it in a function
//! compiled for the best instruction set of the machine (AVX-512, AVX2 or the target's own), so one binary
//! serves all. The closure and everything it calls must be `#[inline(always)]`, or the loop is compiled for
//! the target's own set, where a fused multiply-add is a call into the library and a hundred times slower. The order of
//! sums is fixed for a given instruction set.

use std::sync::OnceLock;

use pulp::Arch;

use crate::KernelError;

/// The instruction sets that loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimdLevel {
    /// What every machine of the target has.
    Scalar,
    /// AVX2 and FMA of x86-64.
    Avx2,
    /// AVX-512 of x86-64 with its F, BW, CD, DQ and VL parts.
    Avx512,
    /// NEON of AArch64.
    Neon,
}

/// The variable of the environment that forces a level.
pub const SIMD_VARIABLE: &str = "LONGHAUL_SIMD";

impl SimdLevel {
    const ALL: [(Self, &str); 4] =
        [(Self::Scalar, "scalar"), (Self::Avx2, "avx2"), (Self::Avx512, "avx512"), (Self::Neon, "neon")];

    /// The levels that this machine has, the best one last.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|(level, _)| level.arch().is_some()).map(|(level, _)| level).collect()
    }

    /// The level that this process uses: the one that [`SIMD_VARIABLE`] names, or else the best.
    ///
    /// # Errors
    /// If the variable names none, or one that this machine does not have.
    pub fn of_process() -> Result<Self, KernelError> {
        let best = Self::available().pop().unwrap_or(Self::Scalar);
        let Some(wanted) = std::env::var_os(SIMD_VARIABLE) else { return Ok(best) };
        let has = Self::available();
        let found = has.iter().find(|level| wanted == level.name());
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = has.iter().map(|level| level.name()).collect();
            let wanted = wanted.to_string_lossy().into_owned();
            KernelError::Simd { variable: SIMD_VARIABLE, wanted, has: names.join(", ") }
        })
    }

    /// As [`SIMD_VARIABLE`] names it.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    fn arch(self) -> Option<Arch> {
        match self {
            Self::Scalar => Some(Arch::Scalar),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Self::Avx2 => pulp::x86::V3::try_new().map(Arch::V3),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Self::Avx512 => pulp::x86::V4::try_new().map(Arch::V4),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => pulp::aarch64::Neon::try_new().map(Arch::Neon),
            #[allow(unreachable_patterns, reason = "each target has some of the levels")]
            _ => None,
        }
    }
}

/// The instruction set of this process. A level that cannot be had is refused by [`SimdLevel::of_process`]; who
/// does not ask gets the best one.
#[inline(always)]
pub(crate) fn arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(|| SimdLevel::of_process().ok().and_then(SimdLevel::arch).unwrap_or_default())
}

/// Runs `work` compiled for the best instruction set that this machine has.
#[inline(always)]
pub(crate) fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    arch().dispatch(work)
}

/// How many sums the loops below run side by side.
const LANES: usize = 16;

/// `e^x` with a relative error under 2e-7, in a form that vectorizes; 0 below -87.3.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Cody and Waite: x = n ln 2 + r with |r| <= ln 2 / 2, then a polynomial of degree 6 for e^r.
    let clamped = x.clamp(-87.3, 88.0);
    let n = (clamped * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, clamped));
    let mut p = 1.987_569_2e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    p = (p * r).mul_add(r, r) + 1.0;
    let scaled = f32::from_bits(((n as i32 + 127) << 23) as u32) * p;
    if x < -87.3 { 0.0 } else { scaled }
}

/// The logistic function.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Inner product of two slices of equal length.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] = x[lane].mul_add(y[lane], lanes[lane]);
        }
    }
    let mut total = sum_lanes(lanes);
    for (x, y) in a_rest.iter().zip(b_rest) {
        total = x.mul_add(*y, total);
    }
    total
}

/// Sum of a slice.
#[inline(always)]
pub(crate) fn sum(a: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (blocks, rest) = a.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] += block[lane];
        }
    }
    rest.iter().fold(sum_lanes(lanes), |total, x| total + x)
}

/// Largest value of a slice; minus infinity for an empty one.
#[inline(always)]
pub(crate) fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = a.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] = if block[lane] > lanes[lane] { block[lane] } else { lanes[lane] };
        }
    }
    let mut largest = f32::NEG_INFINITY;
    for x in lanes.iter().chain(rest) {
        largest = if *x > largest { *x } else { largest };
    }
    largest
}

/// `y += scale * x`.
#[inline(always)]
pub(crate) fn add_scaled(y: &mut [f32], scale: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = scale.mul_add(*x, *y);
    }
}

#[inline(always)]
fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{SIMD_VARIABLE, SimdLevel, dot, exp, max, sum, vectorized};

    /// Decoding, its products and attention are tested again in a process of each level that the machine has.
    #[test]
    fn every_level_passes_the_tests_of_decoding() {
        if std::env::var_os(SIMD_VARIABLE).is_some() {
            return;
        }
        for level in SimdLevel::available() {
            let run = Command::new(std::env::current_exe().expect("a test has a path"))
                .args(["decode::tests::", "decode::cache::", "gemm::", "panel::", "simd::"])
                .env(SIMD_VARIABLE, level.name())
                .output()
                .expect("the test binary runs");
            let told = String::from_utf8_lossy(&run.stdout);
            assert!(run.status.success() && !told.contains("running 0 tests"), "{level:?}: {told}");
        }
    }

    #[test]
    fn levels_are_named_as_they_are_numbered() {
        for (number, (level, name)) in SimdLevel::ALL.into_iter().enumerate() {
            assert_eq!((level as usize, level.name()), (number, name));
        }
        assert_eq!(SimdLevel::available()[0], SimdLevel::Scalar);
    }

    #[test]
    fn exp_is_within_two_ulp_of_the_library() {
        for i in -8_700..8_700 {
            let x = i as f32 * 0.01;
            let (ours, exact) = (
                vectorized(
                    #[inline(always)]
                    || exp(x),
                ),
                f64::from(x).exp(),
            );
            assert!((f64::from(ours) - exact).abs() <= 2.5e-7 * exact, "exp({x}) = {ours}, not {exact}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn sums_agree_with_plain_ones_at_every_length() {
        for n in 0..70 {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.11).cos()).collect();
            let plain: f32 = a.iter().zip(&b).map(|(x, y)| x * y).sum();
            assert!(
                (vectorized(
                    #[inline(always)]
                    || dot(&a, &b)
                ) - plain)
                    .abs()
                    < 1e-5
            );
            assert!((sum(&a) - a.iter().sum::<f32>()).abs() < 1e-5);
            assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
