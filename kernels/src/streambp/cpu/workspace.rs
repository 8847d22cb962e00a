//! The buffers of a pass through the layers, and what of them is kept between forward and backward.

use std::mem;
use std::sync::{Mutex, PoisonError};

use super::pool::BufferPool;
use crate::attention;
use crate::parts::experts::ExpertBuffers;
use crate::zeros::zeros;

/// Buffers of one chunk, used for every chunk of every layer.
#[derive(Default)]
pub(super) struct Workspace {
    /// Head by head, `[KV, key rows, D]` each, with their gradients.
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
    pub(super) dkeys: Vec<f32>,
    pub(super) dvalues: Vec<f32>,
    /// `[chunk, hidden]` each.
    pub(super) normed: Vec<f32>,
    pub(super) residual: Vec<f32>,
    pub(super) feed_forward_normed: Vec<f32>,
    pub(super) dnormed: Vec<f32>,
    pub(super) dresidual: Vec<f32>,
    /// The same where a norm is behind the projection that they are the gradients of; otherwise a number a row.
    pub(super) dattention: Vec<f32>,
    pub(super) dfeed_forward: Vec<f32>,
    /// `[chunk, H D]` each; the raw ones are from before norm and rotation.
    pub(super) query: Vec<f32>,
    pub(super) raw_query: Vec<f32>,
    pub(super) dmixed: Vec<f32>,
    /// `[chunk, KV D]` each.
    pub(super) raw_key: Vec<f32>,
    pub(super) dkey: Vec<f32>,
    pub(super) dvalue: Vec<f32>,
    /// `[chunk, intermediate]` each; the first two become their own gradients.
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
    pub(super) active: Vec<f32>,
    pub(super) dactive: Vec<f32>,
    /// Of layers with experts, whose rows by expert are also in the last four.
    pub(super) experts: ExpertBuffers,
    /// What has served elsewhere.
    pub(super) pool: BufferPool,
}

/// The workspace of the last pass of an engine that has ended, for the next one.
#[derive(Default)]
pub(crate) struct LastWorkspace(Mutex<Option<Box<Workspace>>>);

impl LastWorkspace {
    /// What the last pass has left, unless another one has it now.
    pub(super) fn take(&self) -> Box<Workspace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    /// Ends a pass.
    pub(super) fn leave(&self, workspace: Box<Workspace>) {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(workspace);
        drop(before);
    }
}

/// What the forward pass keeps of a layer for the backward pass.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    /// Attention's results.
    Attention,
    /// Everything but norms.
    Activations,
}

/// What was kept of a layer.
#[derive(Default)]
pub(super) struct KeptLayer {
    /// One a chunk, or none.
    pub(super) chunks: Vec<KeptChunk>,
    /// Keys and values of all rows, `[KV, N, D]`, if activations are kept.
    pub(super) keys_values: Option<[Vec<f32>; 2]>,
}

pub(super) struct KeptChunk {
    pub(super) mixed: attention::Mixed,
    pub(super) activations: Option<Activations>,
}

/// Rows of one chunk that the backward pass starts from.
#[derive(Default)]
pub(super) struct Activations {
    /// Rotated; `None` where the norm before needs what it saw.
    pub(super) query: Option<Vec<f32>>,
    pub(super) residual: Vec<f32>,
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
}

impl Activations {
    /// Replaces the workspace's buffers; says whether queries are among them.
    pub(super) fn put_into(self, workspace: &mut Workspace) -> bool {
        let has_query = self.query.is_some();
        let Workspace { residual, gate, up, query, pool, .. } = workspace;
        let kept = [Some(self.residual), Some(self.gate), Some(self.up), self.query];
        for (place, kept) in [residual, gate, up, query].into_iter().zip(kept) {
            if let Some(kept) = kept {
                pool.give(mem::replace(place, kept));
            }
        }
        has_query
    }
}

/// The first `len` numbers of a buffer, which grows where it is too short.
pub(super) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        // The buffer is given up before its successor is made.
        *buffer = Vec::new();
        *buffer = zeros(len);
    }
    &mut buffer[..len]
}
