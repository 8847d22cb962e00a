//! The bridge between burn's CPU backend and slices of `f32`.

use std::borrow::Cow;

use burn::backend::flex::FlexTensor;
use burn::backend::{BackendTensor, DispatchTensor, DispatchTensorKind};
use burn::tensor::{DType, Shape, Tensor, TensorData};
use pulp::bytemuck;

use crate::zeros::{fill_with_zeros, zeros};

/// A tensor whose numbers lie in one row-major slice. A clone shares them.
#[derive(Clone)]
pub(crate) struct Rows(FlexTensor);

impl Rows {
    /// Copies only where the tensor is a strided view.
    ///
    /// # Panics
    /// If the tensor is not `f32`: every parameter and activation of this crate is.
    pub(crate) fn of(tensor: &FlexTensor) -> Self {
        assert_eq!(tensor.dtype(), DType::F32, "the CPU operations compute in f32");
        Self(tensor.to_contiguous())
    }

    /// The numbers of a parameter on the CPU, shared with the tensor.
    ///
    /// # Panics
    /// As [`Rows::of`]; or if the tensor lies on another device or on a tape.
    pub(crate) fn of_tensor(tensor: &Tensor<2>) -> Self {
        Self::of(&primitive(tensor.clone().into_dispatch()))
    }

    /// Numbers that nobody else has.
    pub(crate) fn owning(values: Vec<f32>, shape: [usize; 2]) -> Self {
        Self(FlexTensor::from_data(TensorData::new(values, shape)))
    }

    /// The numbers.
    pub(crate) fn slice(&self) -> &[f32] {
        self.0.as_slice::<f32>().expect("a contiguous f32 tensor is a slice")
    }

    /// A tensor that shares them.
    pub(crate) fn to_tensor(&self) -> Tensor<2> {
        Tensor::from_dispatch(dispatched(self.0.clone()))
    }
}

/// The numbers of a parameter for a file: on the CPU where they lie, without a copy; of another device they are read back
/// when they are asked for.
pub struct StoredNumbers<'a>(Place<'a>);

enum Place<'a> {
    Cpu(Rows),
    Device(&'a Tensor<2>),
}

impl<'a> StoredNumbers<'a> {
    /// Of a parameter.
    pub fn of(tensor: &'a Tensor<2>) -> Self {
        Self(match tensor.clone().inner_or_self().into_dispatch().kind {
            DispatchTensorKind::Flex(numbers) => Place::Cpu(Rows::of(&numbers.float())),
            #[allow(unreachable_patterns, reason = "the CPU backend may be the only one")]
            _ => Place::Device(tensor),
        })
    }

    /// Row-major.
    ///
    /// # Panics
    /// If the device cannot be read.
    pub fn numbers(&self) -> Cow<'_, [f32]> {
        match &self.0 {
            Place::Cpu(rows) => Cow::Borrowed(rows.slice()),
            Place::Device(tensor) => {
                let read = (*tensor).clone().inner_or_self().try_into_vec_as();
                Cow::Owned(read.expect("parameters are floats on a device that can be read"))
            }
        }
    }

    /// The same as a file of safetensors has them.
    ///
    /// # Panics
    /// As [`StoredNumbers::numbers`].
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self.numbers() {
            Cow::Borrowed(numbers) if cfg!(target_endian = "little") => {
                Cow::Borrowed(bytemuck::cast_slice(numbers))
            }
            numbers => Cow::Owned(numbers.iter().flat_map(|number| number.to_le_bytes()).collect()),
        }
    }
}

/// A tensor without its autodiff part, whether or not it has one.
pub(crate) trait InnerOrSelf {
    /// Drops the autodiff part if there is one.
    fn inner_or_self(self) -> Self;
}

impl<const D: usize> InnerOrSelf for Tensor<D> {
    fn inner_or_self(self) -> Self {
        if self.is_autodiff() { self.inner() } else { self }
    }
}

/// Zeros of the same shape, in the same memory unless it is shared, of a tensor on the CPU.
pub(crate) fn into_zeros(tensor: Tensor<2>) -> Tensor<2> {
    let mut place = tensor;
    let mut sum = Sum::take(&mut place);
    fill_with_zeros(sum.slice_mut());
    sum.into_tensor()
}

/// New zeros of this shape on the CPU.
pub(crate) fn new_zeros(shape: Shape) -> Tensor<2> {
    tensor_of(zeros(shape.num_elements()), shape)
}

/// The CPU backend's own tensor.
fn primitive(tensor: DispatchTensor) -> FlexTensor {
    match tensor.kind {
        DispatchTensorKind::Flex(tensor) => tensor.float(),
        #[allow(unreachable_patterns, reason = "the CPU backend may be the only one")]
        _ => panic!("a tensor of the CPU backend without a tape"),
    }
}

/// A tensor that numbers are added to in place.
pub(crate) struct Sum(FlexTensor);

impl Sum {
    /// Takes a tensor out of its place, which holds nothing until [`Sum::into_tensor`] is put there.
    pub(crate) fn take(place: &mut Tensor<2>) -> Self {
        Self(primitive(take(place).into_dispatch()).to_contiguous())
    }

    /// The tensor again.
    pub(crate) fn into_tensor(self) -> Tensor<2> {
        Tensor::from_dispatch(dispatched(self.0))
    }

    /// The numbers, copied first where something else holds the tensor.
    pub(crate) fn slice_mut(&mut self) -> &mut [f32] {
        self.0.storage_mut::<f32>()
    }
}

/// Takes a tensor out of its place, so that the next operation on it may reuse its memory.
pub(crate) fn take(place: &mut Tensor<2>) -> Tensor<2> {
    let empty = Tensor::empty([0, 0], &place.device());
    std::mem::replace(place, empty)
}

/// A tensor of the CPU backend that owns `values`.
pub(crate) fn tensor_of(values: Vec<f32>, shape: Shape) -> Tensor<2> {
    Tensor::from_dispatch(dispatched(tensor(values, shape)))
}

fn dispatched(tensor: FlexTensor) -> DispatchTensor {
    let kind = DispatchTensorKind::Flex(BackendTensor::Float(tensor));
    DispatchTensor { kind, autodiff: burn::backend::DispatchAutodiffContext::Disabled }
}

/// A tensor that owns `values`.
pub(crate) fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}
