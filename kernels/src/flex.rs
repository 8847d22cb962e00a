//! The bridge between burn's CPU backend and slices of `f32`, and the question which path a tensor takes.

use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Device, Shape, TensorData};

/// Whether tensors of this device take the fused CPU operations; other devices take burn's own.
pub(crate) fn is_cpu(device: &Device) -> bool {
    *device == Device::flex()
}

/// A tensor whose numbers lie in one row-major slice.
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

    /// The numbers.
    pub(crate) fn slice(&self) -> &[f32] {
        self.0.as_slice::<f32>().expect("a contiguous f32 tensor is a slice")
    }
}

/// A tensor that owns `values`.
pub(crate) fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}
