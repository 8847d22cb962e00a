//! The keys of one architecture in a GGUF file, and what its tensors say beside them.

use super::header::Header;
use crate::KernelError;

/// The keys of one architecture in a file.
pub(super) struct Keys<'a> {
    pub(super) architecture: &'static str,
    pub(super) header: &'a Header,
}

impl Keys<'_> {
    /// The whole name of a key.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(super) fn size(&self, name: &str) -> Result<Option<usize>, KernelError> {
        self.header.metadata.size(&self.key(name))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, KernelError> {
        self.header.metadata.number(&self.key(name))
    }

    pub(super) fn required_size(&self, name: &str) -> Result<usize, KernelError> {
        self.header.metadata.required(&self.key(name), self.size(name)?)
    }

    pub(super) fn required_number(&self, name: &str) -> Result<f64, KernelError> {
        self.header.metadata.required(&self.key(name), self.number(name)?)
    }

    pub(super) fn wrong(&self, name: &str, reason: impl std::fmt::Display) -> KernelError {
        self.header.metadata.wrong(&self.key(name), reason)
    }

    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.header.tensors.iter().any(|tensor| tensor.name == name)
    }

    /// Rows of a matrix.
    pub(super) fn tensor_rows(&self, name: &str) -> Result<u64, KernelError> {
        let tensor = self.header.tensors.iter().find(|tensor| tensor.name == name);
        let rows = tensor.and_then(|tensor| tensor.dims.get(1).copied());
        rows.ok_or_else(|| self.header.metadata.broken(format!("lacks a matrix `{name}`")))
    }

    /// Width of a head: that of keys, or of what is rotated of them, which is all.
    pub(super) fn head_width(&self, hidden: usize, heads: usize) -> Result<usize, KernelError> {
        let (key, rotated) = (self.size("attention.key_length")?, self.size("rope.dimension_count")?);
        let width = match key.or(rotated) {
            Some(width) => width,
            None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(self.wrong("embedding_length", format!("is no multiple of {heads} heads"))),
        };
        for (name, other) in [
            ("attention.value_length", self.size("attention.value_length")?),
            ("rope.dimension_count", rotated),
        ] {
            if let Some(other) = other.filter(|other| *other != width) {
                let reason =
                    format!("is {other}, but heads have {width} numbers; only whole heads are computed");
                return Err(self.wrong(name, reason));
            }
        }
        Ok(width)
    }

    pub(super) fn refuse_experts(&self) -> Result<(), KernelError> {
        match self.size("expert_count")? {
            None | Some(0) => Ok(()),
            Some(count) => Err(self.wrong("expert_count", format!("is {count}; experts are not read"))),
        }
    }
}
