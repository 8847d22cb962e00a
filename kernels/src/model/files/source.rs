//! Where the parameters of a model come from while they are written to other files.

use crate::KernelError;

/// Takes the next numbers of a parameter.
pub type TakeNumbers<'a> = dyn FnMut(&[f32]) -> Result<(), KernelError> + 'a;

/// Something that has the parameters of a decoder, each of them read when it is written, so that a model of any size
/// needs the memory of one parameter at most.
pub trait TensorSource {
    /// Hands out the numbers of a parameter, which [`crate::Weights::for_each`] names, in as many parts as it likes.
    ///
    /// # Errors
    /// Names the file, and the tensor that is missing or wrong; or what `take` says.
    fn read(
        &mut self,
        parameter: &str,
        shape: [usize; 2],
        take: &mut TakeNumbers<'_>,
    ) -> Result<(), KernelError>;
}
