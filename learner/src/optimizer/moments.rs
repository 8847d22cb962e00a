//! What an optimizer keeps of a trained parameter from update to update, and how it lies in a checkpoint.

use std::borrow::Cow;

use burn::tensor::{Tensor, TensorData};
use kernels::{Blocks, MomentBlocks, Operations, SecondMoment, StoredNumbers, Trained};
use safetensors::{Dtype, View};

use super::{MomentPrecision, OptimizerConfig, OptimizerKind};

/// Smaller parameters keep their moments in f32, as bitsandbytes has them: norms and biases, of which one number may be
/// worth much.
const BLOCKS_FROM: usize = 4096;

/// What is kept of one parameter.
#[derive(Clone, Debug)]
pub(crate) enum Moment {
    /// AdamW's running means of the gradient and of its square.
    Two { first: Tensor<2>, second: Tensor<2> },
    /// The same in 8 bits.
    Blocks(MomentBlocks),
    /// Adafactor's running mean of the square.
    Second(SecondMoment),
}

/// A tensor of a checkpoint, written from where it lies.
pub(crate) struct StoredMoment<'a> {
    content: Content<'a>,
    shape: [usize; 2],
}

enum Content<'a> {
    Floats(StoredNumbers<'a>),
    Codes(&'a [u8]),
    Magnitudes(&'a [f32]),
}

impl View for StoredMoment<'_> {
    fn dtype(&self) -> Dtype {
        match self.content {
            Content::Floats(_) | Content::Magnitudes(_) => Dtype::F32,
            Content::Codes(_) => Dtype::U8,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.content {
            Content::Floats(numbers) => numbers.bytes(),
            Content::Codes(codes) => Cow::Borrowed(codes),
            Content::Magnitudes(numbers) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
        }
    }

    fn data_len(&self) -> usize {
        self.shape[0] * self.shape[1] * self.dtype().bitsize() / 8
    }
}

impl Moment {
    /// Zeros; `None` for an optimizer that keeps nothing.
    pub(crate) fn new(
        config: &OptimizerConfig,
        parameter: &Trained<&Tensor<2>>,
        operations: Operations,
    ) -> Option<Self> {
        let value = parameter.value;
        let ([rows, columns], device) = (value.dims(), value.device());
        let zeros = || operations.zeros_like(value);
        match (config.kind, config.moments) {
            (OptimizerKind::Sgd, _) => None,
            (OptimizerKind::Adamw, MomentPrecision::Int8) if rows * columns >= BLOCKS_FROM => {
                Some(Self::Blocks(MomentBlocks::zeros(rows * columns)))
            }
            (OptimizerKind::Adamw, _) => Some(Self::Two { first: zeros(), second: zeros() }),
            (OptimizerKind::Adafactor, _) if parameter.is_matrix => {
                let zeros = |shape: [usize; 2]| Tensor::zeros(shape, &device);
                let (rows, columns) = (zeros([rows, 1]), zeros([1, columns]));
                Some(Self::Second(SecondMoment::Factored { rows, columns }))
            }
            (OptimizerKind::Adafactor, _) => Some(Self::Second(SecondMoment::Whole(zeros()))),
        }
    }

    /// The tensors of a checkpoint, each under the word before the parameter's name.
    pub(crate) fn stored(&self) -> Vec<(&'static str, StoredMoment<'_>)> {
        match self {
            Self::Two { first, second } => vec![("first", floats(first)), ("second", floats(second))],
            Self::Second(SecondMoment::Factored { rows, columns }) => {
                vec![("rows", floats(rows)), ("columns", floats(columns))]
            }
            Self::Second(SecondMoment::Whole(whole)) => vec![("second", floats(whole))],
            Self::Blocks(MomentBlocks { first, second }) => vec![
                ("first_codes", codes(first)),
                ("first_largest", magnitudes(first)),
                ("second_codes", codes(second)),
                ("second_largest", magnitudes(second)),
            ],
        }
    }

    /// The same moment with the numbers of a checkpoint, whose tensors are asked for by their words and come as they are
    /// expected.
    pub(crate) fn restored<E>(
        &self,
        mut read: impl FnMut(&str, &StoredMoment<'_>) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        let mut parts = Vec::new();
        for (word, like) in self.stored() {
            parts.push((read(word, &like)?, like.shape));
        }
        let mut parts = parts.into_iter();
        let mut next = || parts.next().expect("as many tensors as are stored");
        let mut tensor = |like: &Tensor<2>| {
            let (bytes, shape) = next();
            Tensor::from_data(TensorData::new(numbers(&bytes), shape), &like.device())
        };
        Ok(match self {
            Self::Two { first, second } => Self::Two { first: tensor(first), second: tensor(second) },
            Self::Second(SecondMoment::Factored { rows, columns }) => {
                Self::Second(SecondMoment::Factored { rows: tensor(rows), columns: tensor(columns) })
            }
            Self::Second(SecondMoment::Whole(whole)) => Self::Second(SecondMoment::Whole(tensor(whole))),
            Self::Blocks(_) => {
                let mut blocks = || Blocks { codes: next().0, largest: numbers(&next().0) };
                Self::Blocks(MomentBlocks { first: blocks(), second: blocks() })
            }
        })
    }
}

fn floats(tensor: &Tensor<2>) -> StoredMoment<'_> {
    StoredMoment { content: Content::Floats(StoredNumbers::of(tensor)), shape: tensor.dims() }
}

fn codes(blocks: &Blocks) -> StoredMoment<'_> {
    StoredMoment { content: Content::Codes(&blocks.codes), shape: [1, blocks.codes.len()] }
}

fn magnitudes(blocks: &Blocks) -> StoredMoment<'_> {
    StoredMoment { content: Content::Magnitudes(&blocks.largest), shape: [1, blocks.largest.len()] }
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
