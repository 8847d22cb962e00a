//! Rows of a pass through the experts of a block: routed by the thread that leads, grouped by expert, and multiplied by
//! the team, an expert or some of its columns a piece.
//!
//! A row's result is the sum over its experts in the order of their ranks, and each product of a row is by itself, so that
//! it depends on no other row of the pass.

use std::ops::Range;

use super::{
    DecodePass, GatedAdapters, Guard, Lead, PassState, Results, Source, Step, WHOLE, Workspace, sized,
};
use crate::activation::forward_in_place;
use crate::gemm::{PackedMatrix, multiply_panels};
use crate::panel::Left;
use crate::parts::experts::routing::Routing;
use crate::parts::experts::{PackedExperts, add_results};
use crate::parts::gated::PackedGated;
use crate::rows::part;

/// What rows by expert need beside the buffers of all layers.
#[derive(Default)]
pub(super) struct ExpertRows {
    routing: Routing,
    /// The router's products, `[rows, experts]`.
    logits: Vec<f32>,
    /// Normed rows by expert, and then their results, `[grouped rows, hidden]`.
    grouped: Vec<f32>,
    pieces: Vec<Piece>,
}

/// Some columns of an expert's product.
struct Piece {
    expert: usize,
    /// The expert's grouped rows.
    rows: Range<usize>,
    panels: Range<usize>,
    /// The columns of these panels.
    columns: Range<usize>,
}

/// The projections of an expert that a step is about.
#[derive(Clone, Copy)]
pub(super) enum ExpertStep {
    /// From normed rows to the activation.
    GateUp,
    Down,
}

impl ExpertStep {
    /// The weight whose panels pieces are cut from.
    fn weight(self, expert: &PackedGated) -> &PackedMatrix {
        match self {
            Self::GateUp => &expert.gate,
            Self::Down => &expert.down,
        }
    }
}

impl ExpertRows {
    /// Cuts a step into pieces: an expert each, or where few experts have rows some of its columns.
    fn cut(&mut self, experts: &PackedExperts, step: ExpertStep, threads: usize) {
        self.pieces.clear();
        let parts = threads.div_ceil(self.routing.used().count().max(1));
        for expert in self.routing.used() {
            let weight = step.weight(&experts.experts[expert]);
            let each = weight.panels().div_ceil(parts);
            for first in (0..weight.panels()).step_by(each) {
                let panels = first..weight.panels().min(first + each);
                let width = weight.panel_columns();
                let columns = first * width..weight.columns().min(panels.end * width);
                self.pieces.push(Piece { expert, rows: self.routing.rows_of(expert), panels, columns });
            }
        }
    }
}

impl DecodePass<'_> {
    /// Does a piece of a step of experts.
    pub(super) fn expert_piece(
        &self,
        state: &PassState<'_, '_>,
        experts: &PackedExperts,
        adapters: Option<&[GatedAdapters]>,
        step: ExpertStep,
        piece: usize,
        values: &mut Vec<f32>,
        up: &mut Vec<f32>,
    ) {
        let Workspace { experts: by_expert, active, .. } = &*state.workspace;
        let Piece { expert, rows, panels, columns } = &by_expert.pieces[piece];
        let adapters = adapters.map(|all| &all[*expert]);
        let expert = &experts.experts[*expert];
        let (count, len) = (rows.len(), rows.len() * columns.len());
        let values = sized(values, len);
        let inner = step.weight(expert).inner();
        match step {
            ExpertStep::GateUp => {
                let (x, up) = (part(&by_expert.grouped, rows, inner), sized(up, len));
                let left = Left::Rows(x, inner);
                multiply_panels(count, left, &expert.gate, panels.clone(), values);
                multiply_panels(count, left, &expert.up, panels.clone(), up);
                if let Some(adapter) = adapters.and_then(|all| all.gate_up.as_ref()) {
                    adapter.add(x, 0, panels.clone(), values);
                    adapter.add(x, 1, panels.clone(), up);
                }
                forward_in_place(values, up, expert.activation);
            }
            ExpertStep::Down => {
                let x = part(active, rows, inner);
                multiply_panels(count, Left::Rows(x, inner), &expert.down, panels.clone(), values);
                if let Some(adapter) = adapters.and_then(|all| all.down.as_ref()) {
                    adapter.add(x, 0, panels.clone(), values);
                }
            }
        }
    }
}

impl<'scope, 'p, 'a> Lead<'_, 'scope, 'p, 'a> {
    /// From normed rows to the block's output.
    pub(super) fn experts(
        &self,
        mut state: Guard<'scope, 'p, 'a>,
        rows: usize,
        experts: &'p PackedExperts,
        adapters: Option<&'p [GatedAdapters]>,
    ) -> Guard<'scope, 'p, 'a> {
        state = self.product(state, Source::Normed, &experts.router, None);
        self.route(rows, state.workspace, experts);
        state = self.expert_step(state, experts, adapters, ExpertStep::GateUp);
        let Workspace { experts: by_expert, results, active, .. } = &mut *state.workspace;
        collect_pieces(by_expert, results, experts.spec.intermediate, active);
        state = self.expert_step(state, experts, adapters, ExpertStep::Down);
        let hidden = self.pass.model.config.hidden;
        let Workspace { experts: by_expert, results, x, .. } = &mut *state.workspace;
        let mut grouped = std::mem::take(&mut by_expert.grouped);
        collect_pieces(by_expert, results, hidden, &mut grouped);
        for (row, x) in x[..rows * hidden].chunks_exact_mut(hidden).enumerate() {
            add_results(&by_expert.routing, row, experts.joint.scale, &grouped, x);
        }
        by_expert.grouped = grouped;
        state
    }

    /// Routes rows by the router's products and groups them.
    fn route(&self, rows: usize, workspace: &mut Workspace, experts: &PackedExperts) {
        let hidden = self.pass.model.config.hidden;
        let Workspace { experts: by_expert, results, normed, .. } = workspace;
        let ExpertRows { routing, logits, grouped, .. } = by_expert;
        self.collect(rows, results, &experts.router, logits);
        routing.set(&mut logits[..rows * experts.spec.count], &experts.spec);
        let grouped = sized(grouped, routing.len() * hidden);
        for (number, to) in grouped.chunks_exact_mut(hidden).enumerate() {
            to.copy_from_slice(&normed[routing.row(number) * hidden..][..hidden]);
        }
    }

    fn expert_step(
        &self,
        mut state: Guard<'scope, 'p, 'a>,
        experts: &'p PackedExperts,
        adapters: Option<&'p [GatedAdapters]>,
        step: ExpertStep,
    ) -> Guard<'scope, 'p, 'a> {
        let by_expert = &mut state.workspace.experts;
        by_expert.cut(experts, step, self.pass.threads);
        let pieces = by_expert.pieces.len();
        self.step(state, Step::Experts(experts, adapters, step), pieces)
    }
}

/// The pieces' results as grouped rows of some width.
fn collect_pieces(by_expert: &ExpertRows, results: &Results, width: usize, to: &mut Vec<f32>) {
    let to = sized(to, by_expert.routing.len() * width);
    for (piece, result) in by_expert.pieces.iter().zip(results) {
        let result = result.read().expect(WHOLE);
        let columns = &piece.columns;
        let rows = result.values[..piece.rows.len() * columns.len()].chunks_exact(columns.len());
        for (row, from) in piece.rows.clone().zip(rows) {
            to[row * width..][columns.clone()].copy_from_slice(from);
        }
    }
}
