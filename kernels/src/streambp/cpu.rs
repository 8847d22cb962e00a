//! StreamBP on the CPU: the same computation as the tape's, written out by hand on slices.
//!
//! Every step cuts its rows into blocks that stay in cache, and all cores work on blocks. A weight is packed
//! once a layer, a weight's gradient grows in place, the buffers of a chunk serve all chunks, and what the
//! backward pass does not read is not computed again (the down projection). The cut into blocks is fixed, so
//! that results depend on the chunks alone and not on threads.

pub(super) mod head;
mod inputs;
mod layer;
mod live;
mod pool;
mod workspace;

use std::sync::Arc;

use super::{ChunkPlan, Slopes, TokenStats};
use crate::batch::{Packed, SequenceRows};
use crate::error::KernelError;
use crate::model::Decoder;
use crate::model::gradients::{GradientSink, GradientSum};
use crate::model::weights::Weights;
use crate::parts::block::DecoderSlices;
use crate::rows::add_columns;
use head::HeadLoss;
use inputs::KeptInputs;
use layer::LayerPass;
use live::LiveRows;
use pool::BufferPool;
pub(crate) use workspace::LastWorkspace;
use workspace::{Keep, KeptLayer, Workspace};

/// One batch on its way through one model whose parameters lie in memory.
pub(crate) struct SlicePass<'a> {
    decoder: &'a Decoder,
    batch: &'a Packed,
    plan: &'a ChunkPlan,
    /// The engine's.
    last: &'a LastWorkspace,
    weights: DecoderSlices,
    /// Cosines and sines of all rows, each `[N, D / 2]`, for each of the model's sets of frequencies.
    angles: Vec<(Vec<f32>, Vec<f32>)>,
    /// The token after each token.
    targets: Arc<[u32]>,
    /// Where the sequences lie.
    parts: Vec<SequenceRows>,
    /// Whether chunks without slopes are left out of the backward pass; a test compares with one that is whole.
    pub(crate) skips: bool,
}

/// What the forward pass leaves for the backward pass.
struct Kept {
    /// Of every layer but the first.
    inputs: KeptInputs,
    /// What else is kept of every layer.
    layers: Vec<KeptLayer>,
}

impl<'a> SlicePass<'a> {
    pub(crate) fn new(
        decoder: &'a Decoder,
        batch: &'a Packed,
        plan: &'a ChunkPlan,
        last: &'a LastWorkspace,
    ) -> Self {
        let config = &decoder.config;
        let (ropes, positions) = (config.spec.ropes(), batch.positions());
        Self {
            decoder,
            batch,
            plan,
            last,
            weights: DecoderSlices::new(decoder),
            angles: ropes.into_iter().map(|rope| rope.table(config.head_width, &positions)).collect(),
            targets: batch.next_tokens().into(),
            parts: batch.parts().collect(),
            skips: true,
        }
    }

    /// Statistics of the batch, without gradients.
    pub(crate) fn statistics(&self) -> TokenStats {
        let mut workspace = self.last.take();
        let mut x = self.embedded(&mut workspace.pool);
        for layer in 0..self.weights.blocks.len() {
            self.layer(layer).forward(&mut x, &mut workspace, Keep::Nothing);
        }
        let (stats, _) = self.head_statistics(&x);
        workspace.pool.give(x);
        // The next backward pass will need what this one had no use for.
        workspace.pool.keep_all();
        self.last.leave(workspace);
        stats
    }

    /// Forward, the caller's slopes and the backward pass, added to `gradients`.
    pub(crate) fn gradients(
        &self,
        mut sink: GradientSink<'_>,
        slopes: &mut dyn FnMut(&TokenStats) -> Slopes,
    ) -> Result<TokenStats, KernelError> {
        let mut workspace = self.last.take();
        let mut x = self.embedded(&mut workspace.pool);
        let kept = self.forward(&mut x, &mut workspace)?;
        let (stats, log_totals) = self.head_statistics(&x);
        let slopes = slopes(&stats).of_batch(self.batch);
        let live = if self.skips { LiveRows::new(self.batch, &slopes) } else { LiveRows::all(self.batch) };
        if live.is_empty() {
            // The next backward pass will need what this one had no use for.
            workspace.pool.give(x);
            workspace.pool.keep_all();
            self.last.leave(workspace);
            return Ok(stats);
        }
        let mut sums = GradientSum::take_all(&mut sink);
        // From here on `x` is the gradient of what it was.
        let loss = HeadLoss { slopes: &slopes, entropies: &stats.entropies, log_totals: &log_totals };
        self.head_backward(&mut x, &loss, &live, &mut sums);
        let done = self.backward(kept, &mut x, &mut workspace, &mut sums, &live);
        GradientSum::give_back(sums, &mut sink);
        workspace.pool.give(x);
        workspace.pool.keep_given();
        self.last.leave(workspace);
        done.map(|()| stats)
    }

    /// Replaces the embedded tokens by the last layer's output; returns what the backward pass needs.
    fn forward(&self, x: &mut [f32], workspace: &mut Workspace) -> Result<Kept, KernelError> {
        let layers = self.weights.blocks.len();
        // The last layers' results are used first in the backward pass, and so are held for the shortest time.
        let (config, tokens) = (&self.decoder.config, self.batch.ids.len());
        let first_mixed = layers - self.plan.layers_kept(config, tokens);
        let first_whole = layers - self.plan.whole_layers_kept(config, tokens);
        let mut kept = Kept { inputs: KeptInputs::new(&self.plan.layer_inputs)?, layers: Vec::new() };
        for layer in 0..layers {
            // The first layer's input is looked up again.
            if layer > 0 {
                kept.inputs.push(x, &mut workspace.pool)?;
            }
            let keep = match layer {
                layer if layer >= first_whole => Keep::Activations,
                layer if layer >= first_mixed => Keep::Attention,
                _ => Keep::Nothing,
            };
            kept.layers.push(self.layer(layer).forward(x, workspace, keep));
        }
        Ok(kept)
    }

    /// From the gradient `x` of the last layer's output to that of the embedding.
    fn backward(
        &self,
        mut kept: Kept,
        x: &mut [f32],
        workspace: &mut Workspace,
        sums: &mut Weights<GradientSum>,
        live: &LiveRows,
    ) -> Result<(), KernelError> {
        let mut input = Vec::new();
        for (layer, kept_layer) in kept.layers.into_iter().enumerate().rev() {
            if layer > 0 {
                kept.inputs.pop(x.len(), &mut input, &mut workspace.pool)?;
            } else {
                // The buffer is given up before its successor is made.
                workspace.pool.give(std::mem::take(&mut input));
                input = self.embedded(&mut workspace.pool);
            }
            let gradients = &mut sums.blocks[layer];
            self.layer(layer).backward(&input, kept_layer, x, workspace, gradients, live);
        }
        workspace.pool.give(input);
        let hidden = self.decoder.config.hidden;
        let Some(to) = sums.embedding.full() else { return Ok(()) };
        if let Some(scale) = self.decoder.config.spec.embedding_scale {
            x.iter_mut().for_each(|number| *number *= scale);
        }
        for (&id, row) in self.batch.ids.iter().zip(x.chunks_exact(hidden)) {
            add_columns(&mut to[id as usize * hidden..(id as usize + 1) * hidden], row);
        }
        Ok(())
    }

    /// Rows of the embedding, `[N, hidden]`.
    fn embedded(&self, pool: &mut BufferPool) -> Vec<f32> {
        let hidden = self.decoder.config.hidden;
        let mut x = pool.take(self.batch.ids.len() * hidden);
        for (&id, x) in self.batch.ids.iter().zip(x.chunks_exact_mut(hidden)) {
            self.weights.embedding.copy_row(id as usize, x);
        }
        if let Some(scale) = self.decoder.config.spec.embedding_scale {
            x.iter_mut().for_each(|number| *number *= scale);
        }
        x
    }

    fn layer(&self, layer: usize) -> LayerPass<'_> {
        let spec = &self.decoder.config.spec;
        let (cos, sin) = &self.angles[spec.rope_of(layer)];
        LayerPass {
            config: &self.decoder.config,
            block: &self.weights.blocks[layer],
            batch: self.batch,
            chunk: self.plan.layer_chunk_tokens,
            window: spec.attention_of(layer).window,
            angles: (cos, sin),
            parts: &self.parts,
        }
    }
}
