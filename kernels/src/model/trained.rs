//! What is trained of a model, as lists in one order: all its parameters, or the matrices of its adapters alone. Whoever
//! updates, sums or stores what is trained needs no other form.

use burn::tensor::Tensor;

use super::files::peft::tensor_name;
use super::gradients::GradientSink;
use super::linear::{Adapters, LowRank};
use super::weights::{Block, Weights};
use super::{Decoder, Stored};
use crate::flex::new_zeros;
use crate::operations::Operations;

/// A trained parameter.
#[derive(Clone, Debug)]
pub struct Trained<T> {
    /// Its name: that of [`Weights::for_each`], or for a matrix of an adapter that of peft's files.
    pub name: String,
    /// A tensor of it.
    pub value: T,
    /// Whether it is a matrix, and not the weight of a norm or a bias.
    pub is_matrix: bool,
}

impl Decoder {
    /// What is trained: the matrices of the adapters where there are some, and otherwise all parameters.
    pub fn trained(&self) -> Vec<Trained<&Tensor<2>>> {
        let mut list = Vec::new();
        match &self.lora {
            // Norms and biases are `[1, n]`.
            None => self.weights.tensors().for_each(|name, value| {
                list.push(Trained { name: name.to_owned(), value, is_matrix: value.dims()[0] != 1 });
            }),
            Some(lora) => lora.adapters.for_each(|name, adapter| {
                let Some(LowRank { a, b, .. }) = adapter else { return };
                let name = self.config.family.file_name(name);
                for (part, value) in [("A", a), ("B", b)] {
                    list.push(Trained { name: tensor_name(&name, part), value, is_matrix: true });
                }
            }),
        }
        list
    }

    /// The same for change.
    pub fn trained_mut(&mut self) -> Vec<Trained<&mut Tensor<2>>> {
        let named: Vec<_> = self.trained().into_iter().map(|own| (own.name, own.is_matrix)).collect();
        let values = match &mut self.lora {
            Some(lora) => matrices_mut(&mut lora.adapters),
            None => self.weights.tensors_mut().values_mut(),
        };
        let parameters = named.into_iter().zip(values);
        parameters.map(|((name, is_matrix), value)| Trained { name, value, is_matrix }).collect()
    }

    /// How many numbers are trained.
    pub fn trained_count(&self) -> usize {
        self.trained().iter().map(|own| own.value.dims().iter().product::<usize>()).sum()
    }
}

/// A and B of each adapter.
fn matrices_mut(adapters: &mut Adapters) -> Vec<&mut Tensor<2>> {
    adapters.values_mut().into_iter().flatten().flat_map(|LowRank { a, b, .. }| [a, b]).collect()
}

/// One sum of gradients for each trained parameter.
#[derive(Clone, Debug)]
pub enum GradientSums {
    /// Of all parameters.
    Full(Box<Weights<Tensor<2>>>),
    /// Of the adapters.
    LowRank(Box<Adapters>),
}

impl GradientSums {
    /// Zeros for what is trained of a model.
    #[must_use]
    pub fn zeros_of(decoder: &Decoder, operations: Operations) -> Self {
        match &decoder.lora {
            None => Self::Full(Box::new(match &decoder.weights {
                Stored::Tensors(weights) => weights.zeros_like(operations),
                Stored::Packed(_) => decoder.config.shapes().map(|_, shape| new_zeros((*shape).into())),
            })),
            Some(lora) => {
                let zeros = |matrix: &Tensor<2>| operations.zeros_like(matrix);
                let sums = lora.adapters.map(|_, adapter| adapter.as_ref().map(|adapter| adapter.map(zeros)));
                Self::LowRank(Box::new(sums))
            }
        }
    }

    /// Zeros in the memory of these tensors, or of others where somebody shares them.
    #[must_use]
    pub fn into_zeros(mut self, operations: Operations) -> Self {
        for value in self.values_mut() {
            *value = operations.into_zeros(crate::flex::take(value));
        }
        self
    }

    /// Where a backward pass adds.
    pub fn sink(&mut self) -> GradientSink<'_> {
        match self {
            Self::Full(sums) => GradientSink::Full(sums),
            Self::LowRank(sums) => GradientSink::LowRank(sums),
        }
    }

    /// The sums in the order of [`Decoder::trained`].
    pub fn values(&self) -> Vec<&Tensor<2>> {
        match self {
            Self::Full(sums) => sums.named().into_iter().map(|(_, value)| value).collect(),
            Self::LowRank(sums) => {
                let adapters = sums.named().into_iter().filter_map(|(_, adapter)| adapter.as_ref());
                adapters.flat_map(|LowRank { a, b, .. }| [a, b]).collect()
            }
        }
    }

    /// The same for change.
    pub fn values_mut(&mut self) -> Vec<&mut Tensor<2>> {
        match self {
            Self::Full(sums) => sums.values_mut(),
            Self::LowRank(sums) => matrices_mut(sums),
        }
    }

    /// The same in parts that are whole one after the other in a backward pass: what stands behind the layers, the layers
    /// from the last to the first, the embedding.
    pub fn parts_mut(&mut self) -> Vec<Vec<&mut Tensor<2>>> {
        match self {
            Self::Full(sums) => {
                let Weights { embedding, blocks, final_norm, head } = &mut **sums;
                let mut parts = vec![head.iter_mut().chain([final_norm]).collect()];
                parts.extend(blocks.iter_mut().rev().map(values_of));
                parts.push(vec![embedding]);
                parts
            }
            Self::LowRank(sums) => sums.blocks.iter_mut().rev().map(block_matrices).collect(),
        }
    }
}

/// A and B of each adapter of a block.
fn block_matrices(block: &mut Block<Option<LowRank>>) -> Vec<&mut Tensor<2>> {
    values_of(block).into_iter().flatten().flat_map(|LowRank { a, b, .. }| [a, b]).collect()
}

fn values_of<T>(block: &mut Block<T>) -> Vec<&mut T> {
    let mut values = Vec::new();
    block.for_each_mut(&mut |_, value| values.push(value));
    values
}
