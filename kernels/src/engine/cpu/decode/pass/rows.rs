//! What happens to the rows of a pass between two products, on the thread that leads or on all.

use rayon::prelude::*;

use super::{Lead, PackedAdapter, PassState, ROWS_SHARED, Results, Source, WHOLE, Workspace, sized};
use crate::flex::Rows;
use crate::gemm::{PackedMatrix, multiply};
use crate::panel::Left;
use crate::parts::norm::Norm;
use crate::parts::residual::Joint;
use crate::rows::{add_columns, add_scaled_columns};

impl Lead<'_, '_, '_, '_> {
    /// Works on parts of a buffer, on all threads.
    fn parts(&self, buffer: &mut [f32], len: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        if self.pass.threads > 1 && buffer.len() > len {
            buffer.par_chunks_mut(len).enumerate().for_each(|(number, part)| work(number, part));
        } else {
            buffer.chunks_mut(len).enumerate().for_each(|(number, part)| work(number, part));
        }
    }

    pub(super) fn norm(&self, rows: usize, workspace: &mut Workspace, norm: &Norm) {
        let hidden = self.pass.model.config.hidden;
        let x = &workspace.x[..rows * hidden];
        let len = ROWS_SHARED * hidden;
        self.parts(sized(&mut workspace.normed, x.len()), len, |number, y| {
            norm.forward(&x[number * len..][..y.len()], y);
        });
    }

    /// The rows between the two matrices of adapters, times their scales.
    pub(super) fn between(
        &self,
        state: &mut PassState<'_, '_>,
        source: Source,
        adapter: Option<&PackedAdapter>,
    ) {
        let Some(PackedAdapter { first, scales, .. }) = adapter else { return };
        let Workspace { normed, mixed, active, between, .. } = &mut *state.workspace;
        let left = match source {
            Source::Normed => normed,
            Source::Mixed => mixed,
            Source::Active => active,
        };
        let (inner, ranks) = (first.inner(), scales.len());
        self.parts(sized(between, state.rows * ranks), ROWS_SHARED * ranks, |number, to| {
            let rows = to.len() / ranks;
            let left = &left[number * ROWS_SHARED * inner..][..rows * inner];
            multiply(rows, Left::Rows(left, inner), first, to);
            for row in to.chunks_exact_mut(ranks) {
                row.iter_mut().zip(scales).for_each(|(number, scale)| *number *= scale);
            }
        });
    }

    /// A product's result row by row.
    pub(super) fn collect(&self, rows: usize, results: &Results, weight: &PackedMatrix, to: &mut Vec<f32>) {
        let (columns, width) = (weight.columns(), self.pass.columns(weight));
        self.parts(sized(to, rows * columns), ROWS_SHARED * columns, |number, to| {
            for (row, to) in to.chunks_exact_mut(columns).enumerate() {
                collect_row(results, width, number * ROWS_SHARED + row, to);
            }
        });
    }

    /// What attention's tasks have made.
    pub(super) fn collect_mixed(&self, state: &mut PassState<'_, '_>) {
        let Workspace { results, mixed, .. } = &mut *state.workspace;
        let config = &self.pass.model.config;
        let mixed = sized(mixed, state.rows * config.heads * config.head_width);
        for (task, result) in state.tasks.iter().zip(results) {
            let result = result.get_mut().expect(WHOLE);
            mixed[task.mixed.clone()].copy_from_slice(&result.values[..task.mixed.len()]);
        }
    }

    /// Adds a product's result and a bias to the residual stream, through a norm and a factor where there are some.
    pub(super) fn add(
        &self,
        rows: usize,
        workspace: &mut Workspace,
        weight: &PackedMatrix,
        bias: Option<&Rows>,
        joint: &Joint,
    ) {
        let (columns, width) = (weight.columns(), self.pass.columns(weight));
        if let Some(norm) = &joint.norm {
            self.add_normed(rows, workspace, weight, bias, joint, norm);
            return;
        }
        let Workspace { results, x, .. } = workspace;
        self.parts(&mut x[..rows * columns], ROWS_SHARED * columns, |number, x| {
            for (row, x) in x.chunks_exact_mut(columns).enumerate() {
                let row = number * ROWS_SHARED + row;
                for (result, x) in results.iter().zip(x.chunks_mut(width)) {
                    let from = &result.read().expect(WHOLE).values[row * x.len()..];
                    add_scaled_columns(x, joint.scale, &from[..x.len()]);
                }
                if let Some(bias) = bias {
                    add_scaled_columns(x, joint.scale, bias.slice());
                }
            }
        });
    }

    /// Adds the norm of a product's result and a bias to the residual stream.
    fn add_normed(
        &self,
        rows: usize,
        workspace: &mut Workspace,
        weight: &PackedMatrix,
        bias: Option<&Rows>,
        joint: &Joint,
        norm: &Norm,
    ) {
        let columns = weight.columns();
        let Workspace { results, x, normed, .. } = workspace;
        self.collect(rows, results, weight, normed);
        let (x, y) = (&mut x[..rows * columns], &mut normed[..rows * columns]);
        for (x, y) in x.chunks_exact_mut(columns).zip(y.chunks_exact_mut(columns)) {
            if let Some(bias) = bias {
                add_columns(y, bias.slice());
            }
            norm.forward_in_place(y);
            add_scaled_columns(x, joint.scale, y);
        }
    }
}

/// One row of a result that lies by blocks of columns.
pub(super) fn collect_row(results: &Results, width: usize, row: usize, to: &mut [f32]) {
    for (result, to) in results.iter().zip(to.chunks_mut(width)) {
        let from = result.read().expect(WHOLE);
        to.copy_from_slice(&from.values[row * to.len()..][..to.len()]);
    }
}
