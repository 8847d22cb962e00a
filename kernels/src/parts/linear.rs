//! The tensor form of a projection, which all parts with a matrix have.

use burn::tensor::Tensor;

/// `x w^T + bias`.
///
/// # Shapes
/// `x` `[N, in]`, `weight` `[out, in]`, `bias` `[1, out]`; the result is `[N, out]`.
pub(crate) fn linear(x: Tensor<2>, weight: &Tensor<2>, bias: Option<&Tensor<2>>) -> Tensor<2> {
    let y = x.matmul(weight.clone().transpose());
    match bias {
        Some(bias) => y + bias.clone(),
        None => y,
    }
}
