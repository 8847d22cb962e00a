//! A LoRA adapter in the files of PEFT, added to the model that it was trained on.
//!
//! `W + scale * B A` is computed in f32, a matrix at a time.

use std::collections::HashMap;
use std::path::Path;

use rayon::prelude::*;

use super::peft::{PeftConfig, PeftPair, base_name, is_adapter, wrong_base};
use super::source::{TakeNumbers, TensorSource};
use crate::KernelError;
use crate::model::config::DecoderConfig;

/// An adapter that fits a model.
#[derive(Debug)]
pub struct PeftAdapter {
    /// By the parameters' names here.
    pairs: HashMap<String, PeftPair>,
}

impl PeftAdapter {
    /// Reads an adapter for a decoder.
    ///
    /// # Errors
    /// Names the file and the key or tensor that is missing, misshapen or not computed.
    pub fn read(dir: &Path, config: &DecoderConfig) -> Result<Self, KernelError> {
        let pairs = PeftConfig::read(dir)?.pairs(dir, config)?.into_iter();
        Ok(Self { pairs: pairs.map(|pair| (pair.parameter.clone(), pair)).collect() })
    }

    /// The model on which the adapter was trained, as its files name it.
    ///
    /// # Errors
    /// If there is no such file, or it names none.
    pub fn base_of(dir: &Path) -> Result<String, KernelError> {
        base_name(dir)?.ok_or_else(|| wrong_base(dir, "is missing"))
    }

    /// Whether a directory holds an adapter and no model.
    #[must_use]
    pub fn is_in(dir: &Path) -> bool {
        is_adapter(dir)
    }

    /// The model's parameters with the adapter added.
    pub fn onto<'a>(&'a self, model: &'a mut dyn TensorSource) -> impl TensorSource + 'a {
        Merged { adapter: self, model }
    }
}

/// A model with an adapter added.
struct Merged<'a> {
    adapter: &'a PeftAdapter,
    model: &'a mut dyn TensorSource,
}

impl TensorSource for Merged<'_> {
    fn read(
        &mut self,
        parameter: &str,
        shape: [usize; 2],
        take: &mut TakeNumbers<'_>,
    ) -> Result<(), KernelError> {
        let Some(pair) = self.adapter.pairs.get(parameter) else {
            return self.model.read(parameter, shape, take);
        };
        let mut whole = pair.matrix.clone().unwrap_or_default();
        if whole.is_empty() {
            self.model.read(parameter, shape, &mut |numbers| {
                whole.extend_from_slice(numbers);
                Ok(())
            })?;
        }
        pair.add_to(&mut whole, shape[1]);
        take(&whole)
    }
}

impl PeftPair {
    /// Adds `scale * B A` to a matrix with rows of so many numbers.
    fn add_to(&self, matrix: &mut [f32], columns: usize) {
        let scale = self.scale as f32;
        let rows = matrix.par_chunks_exact_mut(columns).zip(self.b.par_chunks_exact(self.rank));
        rows.for_each(|(row, factors)| {
            let mut sum = vec![0.0; columns];
            for (factor, a) in factors.iter().zip(self.a.chunks_exact(columns)) {
                sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += factor * a);
            }
            row.iter_mut().zip(sum).for_each(|(row, sum)| *row += scale * sum);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_of_low_rank_is_added() {
        let pair = PeftPair {
            parameter: String::new(),
            name: String::new(),
            a: vec![1.0, 2.0, 3.0, 0.0, 1.0, 0.0],
            b: vec![1.0, 10.0, -1.0, 0.0],
            rank: 2,
            scale: 0.5,
            matrix: None,
        };
        let mut matrix = vec![1.0; 6];
        pair.add_to(&mut matrix, 3);
        assert_eq!(matrix, [1.5, 7.0, 2.5, 0.5, 0.0, -0.5]);
    }
}
