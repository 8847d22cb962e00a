//! Rotary position embedding: frequencies with every scaling that this crate computes, and tables of
//! cosines and sines.
//!
//! The arithmetic follows `transformers` operation by operation in f32, because a frequency that is off
//! by its last bit turns into a visible angle at position 100 000. The rotation itself (half-split, as
//! in Hugging Face checkpoints) is not here: this file makes plain numbers, no tensors.

use std::f64::consts::PI;

/// The frequencies of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The wavelength of the slowest pair over 2 pi, `rope_theta`.
    pub theta: f64,
    /// How the frequencies were stretched to a longer context.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched to a longer context, with the names of Hugging Face's `rope_type`.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// There are none: every angle is 0 and nothing is rotated, in layers without positions (NoPE, arXiv 2501.18795).
    Absent,
    /// Every frequency divided by one factor (position interpolation).
    Linear {
        /// The factor.
        factor: f64,
        /// The context length before stretching, in tokens, where the config states it.
        original_max_positions: Option<usize>,
    },
    /// Llama 3.1: slow frequencies divided, fast ones kept, a ramp between.
    Llama3 {
        /// What slow frequencies are divided by.
        factor: f64,
        /// Wavelengths above `original_max_positions` over this count as slow.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions` over this count as fast.
        high_freq_factor: f64,
        /// The context length before stretching, in tokens.
        original_max_positions: usize,
    },
    /// YaRN (arXiv 2309.00071): a ramp over the dimensions, and longer rotated vectors.
    Yarn {
        /// What slow frequencies are divided by.
        factor: f64,
        /// The context length before stretching, in tokens.
        original_max_positions: usize,
        /// Dimensions with more rotations than this over the original context are kept.
        beta_fast: f64,
        /// Dimensions with fewer rotations than this over the original context are divided.
        beta_slow: f64,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
        /// Whether the ends of the ramp are rounded outwards to whole dimensions.
        truncate: bool,
    },
}

/// Positions that a model may have: a position is an f32 in an angle, which holds every whole number up to here.
pub const POSITIONS_MAX: usize = 1 << 24;

impl Rope {
    /// The longest sequence that a model was made for whose config states `stated` positions.
    ///
    /// A length that is stated and already stretched is not stretched again. Linear scaling stretches the stated one;
    /// YaRN the original one, because Qwen's recipe leaves the stated one as it was. Llama 3.1 states the stretched
    /// one. vLLM derives its limit by the same rules (`_get_and_verify_max_len`), but takes YaRN's stretched length
    /// also where it is below the stated one.
    #[must_use]
    pub fn positions(&self, stated: usize) -> usize {
        let stretched = match &self.scaling {
            RopeScaling::Default | RopeScaling::Absent | RopeScaling::Llama3 { .. } => 0.0,
            RopeScaling::Linear { factor, original_max_positions } => {
                original_max_positions.unwrap_or(stated) as f64 * factor
            }
            RopeScaling::Yarn { factor, original_max_positions, .. } => {
                *original_max_positions as f64 * factor
            }
        };
        // What is no number of positions is refused where the config is checked.
        stated.max(stretched as usize)
    }

    /// The angle per position of each pair, and what cosines and sines are multiplied by.
    ///
    /// # Panics
    /// When `head_width` is odd or 0.
    pub fn inverse_frequencies(&self, head_width: usize) -> (Vec<f32>, f32) {
        assert!(
            head_width > 0 && head_width.is_multiple_of(2),
            "rotary head width {head_width} has no halves"
        );
        let wavelengths: Vec<f32> =
            (0..head_width).step_by(2).map(|dimension| self.wavelength(dimension, head_width)).collect();
        let inverse = wavelengths.iter().map(|wavelength| 1.0 / wavelength);
        match &self.scaling {
            RopeScaling::Default => (inverse.collect(), 1.0),
            RopeScaling::Absent => (vec![0.0; wavelengths.len()], 1.0),
            RopeScaling::Linear { factor, .. } => (inverse.map(|each| each / *factor as f32).collect(), 1.0),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let bounds = (*low_freq_factor, *high_freq_factor);
                let original = *original_max_positions as f64;
                (inverse.map(|each| llama3_frequency(each, *factor, bounds, original)).collect(), 1.0)
            }
            RopeScaling::Yarn { factor, attention_factor, .. } => {
                let (low, high) = self.yarn_ramp(head_width);
                let frequencies = wavelengths.iter().enumerate().map(|(pair, &wavelength)| {
                    let ramp = ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    let kept = 1.0 - ramp;
                    1.0 / (*factor as f32 * wavelength) * (1.0 - kept) + 1.0 / wavelength * kept
                });
                (frequencies.collect(), *attention_factor as f32)
            }
        }
    }

    /// Cosines and sines for a list of positions, times the attention factor.
    ///
    /// # Shapes
    /// Both row-major `[positions, head_width / 2]`: one value a pair, since both halves share it.
    pub fn table(&self, head_width: usize, positions: &[u32]) -> (Vec<f32>, Vec<f32>) {
        let (frequencies, attention_factor) = self.inverse_frequencies(head_width);
        let count = positions.len() * frequencies.len();
        let (mut cosines, mut sines) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for &position in positions {
            for &frequency in &frequencies {
                // The angle is rounded to f32 as in transformers; its sine and cosine are taken in f64,
                // which is right to the last bit of f32 at any size of the angle.
                let angle = f64::from(position as f32 * frequency);
                cosines.push(angle.cos() as f32 * attention_factor);
                sines.push(angle.sin() as f32 * attention_factor);
            }
        }
        (cosines, sines)
    }

    /// `theta ^ (dimension / head_width)`. The exponent is an f32 as in transformers; the power is taken
    /// in f64, because libraries differ in the last bit of an f32 power.
    fn wavelength(&self, dimension: usize, head_width: usize) -> f32 {
        let exponent = dimension as f32 / head_width as f32;
        f64::from(self.theta as f32).powf(f64::from(exponent)) as f32
    }

    /// The pairs between which YaRN's ramp rises from 0 to 1.
    fn yarn_ramp(&self, head_width: usize) -> (f64, f64) {
        let RopeScaling::Yarn { original_max_positions, beta_fast, beta_slow, truncate, .. } = self.scaling
        else {
            unreachable!("only YaRN has a ramp");
        };
        let width = head_width as f64;
        let dimension = |rotations: f64| {
            width * (original_max_positions as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        // The upper bound is the head width, not half of it: so it is in transformers.
        (low, high) = (low.max(0.0), high.min(width - 1.0));
        // A ramp of no width would divide by 0.
        if low == high { (low, high + 0.001) } else { (low, high) }
    }
}

/// The attention factor that YaRN uses when the config states none.
pub(crate) fn yarn_attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
    let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    match (mscale, mscale_all_dim) {
        // A 0 counts as absent, as in transformers.
        (Some(above), Some(below)) if above != 0.0 && below != 0.0 => scale(above) / scale(below),
        _ => scale(1.0),
    }
}

/// One frequency of Llama 3.1. `bounds` are the low and the high frequency factor.
fn llama3_frequency(frequency: f32, factor: f64, bounds: (f64, f64), original: f64) -> f32 {
    let (low, high) = bounds;
    let wavelength = (2.0 * PI) as f32 / frequency;
    if wavelength > (original / low) as f32 {
        return frequency / factor as f32;
    }
    if wavelength < (original / high) as f32 {
        return frequency;
    }
    let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
    (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(theta: f64, scaling: RopeScaling) -> Rope {
        Rope { theta, scaling }
    }

    /// Equal but for the last two bits: torch's vectorised power may differ in the last one.
    fn assert_close(found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (&found, expected) in found.iter().zip(expected) {
            let difference = (f64::from(found) - expected).abs();
            assert!(difference <= 2.4e-7 * expected, "{found:e} is not {expected:e}");
        }
    }

    // The numbers of the following tests come from transformers 5.23 with torch 2.15, `LlamaRotaryEmbedding`.

    #[test]
    fn default_frequencies_are_those_of_transformers() {
        let (found, factor) = rope(10_000.0, RopeScaling::Default).inverse_frequencies(16);
        let expected = [1.0, 0.316_227_76, 0.1, 0.031_622_78, 0.01, 0.003_162_277_9, 0.001, 3.162_277_9e-4];
        assert_close(&found, &expected);
        assert_eq!(factor, 1.0);
    }

    #[test]
    fn linear_frequencies_are_those_of_transformers() {
        let (found, factor) =
            rope(500_000.0, RopeScaling::Linear { factor: 3.0, original_max_positions: None })
                .inverse_frequencies(16);
        #[rustfmt::skip] // One value a line would hide the rest.
        let expected = [
            3.333_333_4e-1, 6.464_091_7e-2, 1.253_534_4e-2, 2.430_888_4e-3, 4.714_044_9e-4, 9.141_606_3e-5,
            1.772_765_2e-5, 3.437_795_2e-6,
        ];
        assert_close(&found, &expected);
        assert_eq!(factor, 1.0);
    }

    #[test]
    fn llama3_frequencies_are_those_of_transformers() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192,
        };
        let (found, factor) = rope(500_000.0, scaling).inverse_frequencies(32);
        #[rustfmt::skip] // One value a line would hide the rest.
        let expected = [
            1.0, 4.403_666_3e-1, 1.939_227_6e-1, 8.539_710_2e-2, 3.760_603_1e-2, 1.656_044_1e-2,
            7.292_665_1e-3, 3.211_446_1e-3, 5.248_460_2e-4, 7.784_655_5e-5, 3.428_102_4e-5, 1.509_621_8e-5,
            6.647_869_7e-6, 2.927_499_7e-6, 1.289_173_2e-6, 5.677_088_1e-7,
        ];
        assert_close(&found, &expected);
        assert_eq!(factor, 1.0);
    }

    #[test]
    fn yarn_frequencies_are_those_of_transformers() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_max_positions: 32_768,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: yarn_attention_factor(4.0, None, None),
            truncate: true,
        };
        let (found, factor) = rope(1_000_000.0, scaling).inverse_frequencies(32);
        #[rustfmt::skip] // One value a line would hide the rest.
        let expected = [
            1.0, 4.216_965_1e-1, 1.778_279_4e-1, 7.498_941_6e-2, 3.162_277_9e-2, 1.333_521_5e-2,
            4.779_901_4e-3, 1.659_961_7e-3, 5.5e-4, 1.686_785_8e-4, 4.445_698_5e-5, 1.874_735_6e-5,
            7.905_693_6e-6, 3.333_803_5e-6, 1.405_853_4e-6, 5.928_434_3e-7,
        ];
        assert_close(&found, &expected);
        assert_eq!(factor, 1.138_629_4);
    }

    // The numbers are those that `_get_and_verify_max_len` of vLLM derives, but for the last two.
    #[test]
    fn positions_are_stretched_once() {
        let yarn = |factor, original_max_positions| RopeScaling::Yarn {
            factor,
            original_max_positions,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.0,
            truncate: true,
        };
        let linear = |factor, original_max_positions| RopeScaling::Linear { factor, original_max_positions };
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192,
        };
        let cases = [
            (RopeScaling::Default, 32_768, 32_768),
            (llama3, 131_072, 131_072),
            // Qwen2.5 by its recipe, Qwen3, DeepSeek's way of stating the stretched length, and an odd factor.
            (yarn(4.0, 32_768), 32_768, 131_072),
            (yarn(4.0, 32_768), 40_960, 131_072),
            (yarn(40.0, 4096), 163_840, 163_840),
            (yarn(2.5, 101), 101, 252),
            // Vicuna 16k.
            (linear(4.0, None), 4096, 16_384),
            (linear(4.0, Some(4096)), 16_384, 16_384),
            (yarn(2.0, 32_768), 131_072, 131_072),
            (linear(0.5, None), 4096, 4096),
        ];
        for (scaling, stated, expected) in cases {
            let rope = rope(10_000.0, scaling);
            assert_eq!(rope.positions(stated), expected, "{rope:?} {stated}");
        }
    }

    #[test]
    fn yarn_with_every_key_gives_the_frequencies_of_transformers() {
        let scaling = RopeScaling::Yarn {
            factor: 2.5,
            original_max_positions: 256,
            beta_fast: 16.0,
            beta_slow: 2.0,
            attention_factor: yarn_attention_factor(2.5, Some(1.2), Some(0.6)),
            truncate: false,
        };
        let (found, factor) = rope(10_000.0, scaling).inverse_frequencies(16);
        let expected =
            [1.0, 2.964_660_5e-1, 6.053_151_6e-2, 1.264_911_1e-2, 4e-3, 1.264_911_1e-3, 4e-4, 1.264_911_1e-4];
        assert_close(&found, &expected);
        assert_eq!(factor, 1.052_112_5);
    }

    #[test]
    fn the_table_is_row_major_and_rotates_by_position() {
        let rope = rope(10_000.0, RopeScaling::Default);
        let (cosines, sines) = rope.table(4, &[0, 3, 70_000]);
        assert_eq!(&cosines[..2], &[1.0, 1.0]);
        assert_eq!(&sines[..2], &[0.0, 0.0]);
        let expected = [3.0_f64, 0.03, 70_000.0, f64::from(70_000.0_f32 * 0.01_f32)];
        for (place, angle) in expected.into_iter().enumerate() {
            assert!((f64::from(cosines[2 + place]) - angle.cos()).abs() < 1e-7);
            assert!((f64::from(sines[2 + place]) - angle.sin()).abs() < 1e-7);
        }
    }

    #[test]
    fn the_table_carries_the_attention_factor() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_max_positions: 64,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.5,
            truncate: true,
        };
        let (cosines, sines) = rope(10_000.0, scaling).table(8, &[5]);
        for (cosine, sine) in cosines.iter().zip(&sines) {
            assert!((cosine * cosine + sine * sine - 2.25).abs() < 1e-5);
        }
    }

    #[test]
    fn the_attention_factor_follows_mscale() {
        assert!((yarn_attention_factor(4.0, None, None) - (0.1 * 4.0_f64.ln() + 1.0)).abs() < 1e-15);
        assert_eq!(yarn_attention_factor(1.0, None, None), 1.0);
        assert_eq!(yarn_attention_factor(40.0, Some(1.0), Some(1.0)), 1.0);
        assert_eq!(yarn_attention_factor(4.0, Some(2.0), Some(0.0)), yarn_attention_factor(4.0, None, None));
        let expected = (0.2 * 4.0_f64.ln() + 1.0) / (0.05 * 4.0_f64.ln() + 1.0);
        assert!((yarn_attention_factor(4.0, Some(2.0), Some(0.5)) - expected).abs() < 1e-15);
    }
}
