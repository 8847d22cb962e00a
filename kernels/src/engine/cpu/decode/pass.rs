//! Tokens through the layers.
//!
//! One thread leads a pass from step to step and does what takes little; pieces of products and of attention are
//! done by the whole team. Products are cut by their columns: a piece reads some panels of a weight once for all
//! rows. Its result is a block of columns, and the next step collects its rows.

use std::f32::consts::LOG2_E;
use std::ops::Range;
use std::sync::{RwLock, RwLockWriteGuard};

use rayon::Scope;

use super::adapters::{BlockAdapters, GatedAdapters, PackedAdapter};
use super::attention::{QUERIES_MAX, Queries, attend};
use super::cache::{Context, HeadAt, Shape};
use super::packed::{PackedBlock, PackedDecoder};
use super::team::Team;
use crate::activation::forward_in_place;
use crate::gemm::{PackedMatrix, add_multiply_panels, multiply_panels};
use crate::panel::Left;
use crate::parts::attention::{ProjectedRow, RowAngles, score_scale};
use crate::parts::experts::PackedExperts;
use crate::parts::feed_forward::PackedFeedForward;
use crate::parts::gated::PackedGated;

mod experts;
mod rows;

use experts::{ExpertRows, ExpertStep};
use rows::collect_row;

/// Rows that one task norms or collects: less work than this is not worth handing over.
const ROWS_SHARED: usize = 32;
/// With so many contexts for each thread, a piece of attention is a whole context and not one of its heads.
const CONTEXTS_WHOLE: usize = 4;

/// A context, its new tokens and where their last one's logits go.
pub(super) struct ContextPart<'a> {
    pub(super) slot: usize,
    pub(super) tokens: &'a [u32],
    pub(super) context: Context,
    pub(super) logits: Option<&'a mut [f32]>,
}

/// Buffers that serve every pass.
#[derive(Default)]
pub(super) struct Workspace {
    /// The residual stream, `[rows, hidden]`.
    x: Vec<f32>,
    normed: Vec<f32>,
    /// Queries, keys and values side by side.
    projected: Vec<f32>,
    /// `[rows, H D]`.
    mixed: Vec<f32>,
    active: Vec<f32>,
    experts: ExpertRows,
    /// Rows between the two matrices of the adapters of the next product.
    between: Vec<f32>,
    /// Results of a step's pieces.
    results: Vec<RwLock<PieceResult>>,
}

/// What a piece has computed.
#[derive(Default)]
struct PieceResult {
    values: Vec<f32>,
    /// The other factor of the feed-forward part's activation.
    up: Vec<f32>,
}

/// The first `len` numbers of a buffer, which grows where it is too short.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// What all passes of a call have in common.
pub(super) struct DecodePass<'a> {
    pub(super) model: &'a PackedDecoder,
    pub(super) shape: Shape,
    /// Cosines and sines of all positions, for each of the model's sets of frequencies.
    pub(super) angles: Vec<RowAngles<'a>>,
    /// How many threads work on a step.
    pub(super) threads: usize,
}

/// Some tokens of a part that go through the layers together.
struct TokenSpan {
    part: usize,
    /// First token and end in the part's tokens.
    tokens: Range<usize>,
    /// Row of the first token.
    row: usize,
}

/// Attention of some heads of a span's only token, or of all heads of some of its tokens.
struct Task {
    span: usize,
    /// Which numbers of `mixed` it makes.
    mixed: Range<usize>,
}

/// What the team does the pieces of.
#[derive(Clone, Copy)]
enum Step<'a> {
    /// A weight's product with the rows of a buffer, and what adapters add to it.
    Product(Source, &'a PackedMatrix, Option<&'a PackedAdapter>),
    /// The activation of a gated part, and what adapters add to its two products.
    Gated(&'a PackedGated, Option<&'a PackedAdapter>),
    /// Projections of experts, and the adapters of each.
    Experts(&'a PackedExperts, Option<&'a [GatedAdapters]>, ExpertStep),
    /// Attention in a layer.
    Attend(usize),
}

/// The left factor of a product.
#[derive(Clone, Copy)]
enum Source {
    Normed,
    Mixed,
    Active,
}

/// What each piece of a step has computed.
type Results = [RwLock<PieceResult>];

/// A call's parts and all that is computed of them. Who leads changes it between steps; a step's pieces read it.
pub(super) struct PassState<'p, 'a> {
    parts: &'p mut [ContextPart<'a>],
    workspace: &'p mut Workspace,
    spans: Vec<TokenSpan>,
    /// Rows of the left factor of the next product.
    rows: usize,
    tasks: Vec<Task>,
    /// What pieces are of, and how many there are.
    step: Option<(Step<'p>, usize)>,
}

impl<'p, 'a> PassState<'p, 'a> {
    pub(super) fn new(parts: &'p mut [ContextPart<'a>], workspace: &'p mut Workspace) -> Self {
        Self { parts, workspace, spans: Vec::new(), rows: 0, tasks: Vec::new(), step: None }
    }

    /// The left factor of a product with a weight.
    fn left(&self, source: Source, weight: &PackedMatrix) -> Left<'_> {
        let values = match source {
            Source::Normed => &self.workspace.normed,
            Source::Mixed => &self.workspace.mixed,
            Source::Active => &self.workspace.active,
        };
        let inner = weight.inner();
        Left::Rows(&values[..self.rows * inner], inner)
    }

    /// Adds what adapters make of some panels of a product, whose rows between their matrices are there.
    fn add_thin(
        &self,
        adapter: Option<&PackedAdapter>,
        product: usize,
        panels: Range<usize>,
        to: &mut [f32],
    ) {
        if let Some(PackedAdapter { scales, seconds, .. }) = adapter {
            let between = &self.workspace.between[..self.rows * scales.len()];
            let left = Left::Rows(between, scales.len());
            add_multiply_panels(self.rows, left, &seconds[product], panels, to);
        }
    }
}

/// Why no lock is found poisoned.
const WHOLE: &str = "a pass ends where a piece of it panics";

impl<'p> DecodePass<'p> {
    /// Does the piece with this number, from all of the step's pieces down to 1.
    pub(super) fn piece(&self, state: &PassState<'p, '_>, number: usize) {
        let (step, pieces) = state.step.expect("pieces are of a step");
        let piece = pieces - number;
        let PieceResult { values, up } = &mut *state.workspace.results[piece].write().expect(WHOLE);
        match step {
            Step::Product(source, weight, adapter) => {
                let left = state.left(source, weight);
                let (panels, columns) = self.share(weight, piece);
                let values = sized(values, state.rows * columns);
                multiply_panels(state.rows, left, weight, panels.clone(), values);
                state.add_thin(adapter, 0, panels, values);
            }
            Step::Gated(gated, adapter) => {
                let PackedGated { gate: gate_weight, up: up_weight, activation, .. } = gated;
                let left = state.left(Source::Normed, gate_weight);
                let (panels, columns) = self.share(gate_weight, piece);
                let (gate, up) = (sized(values, state.rows * columns), sized(up, state.rows * columns));
                multiply_panels(state.rows, left, gate_weight, panels.clone(), gate);
                multiply_panels(state.rows, left, up_weight, panels.clone(), up);
                state.add_thin(adapter, 0, panels.clone(), gate);
                state.add_thin(adapter, 1, panels, up);
                forward_in_place(gate, up, *activation);
            }
            Step::Experts(experts, adapters, step) => {
                self.expert_piece(state, experts, adapters, step, piece, values, up);
            }
            Step::Attend(layer) => {
                let task = &state.tasks[piece];
                self.attend(state, layer, task, sized(values, task.mixed.len()));
            }
        }
    }

    /// Panels of each piece of a product; the last one may have fewer.
    fn panels_each(&self, weight: &PackedMatrix) -> usize {
        weight.panels().div_ceil(self.threads)
    }

    /// Panels of a piece of a product, and how many columns they have.
    fn share(&self, weight: &PackedMatrix, piece: usize) -> (Range<usize>, usize) {
        let each = self.panels_each(weight);
        let panels = piece * each..((piece + 1) * each).min(weight.panels());
        let width = self.columns(weight);
        (panels, width.min(weight.columns() - piece * width))
    }

    /// Columns of a piece of a product; the last one may have fewer.
    fn columns(&self, weight: &PackedMatrix) -> usize {
        self.panels_each(weight) * weight.panel_columns()
    }

    /// Attention of a task, into its part of `mixed`.
    fn attend(&self, state: &PassState<'_, '_>, layer: usize, task: &Task, result: &mut [f32]) {
        let config = &self.model.config;
        let (head, group) = (config.head_width, config.heads / config.kv_heads);
        let window = config.spec.attention_of(layer).window;
        let query_width = config.heads * head;
        let distance = query_width + 2 * config.kv_heads * head;
        let span = &state.spans[task.span];
        let context = &state.parts[span.part].context;
        let projected = &state.workspace.projected[span.row * distance..];
        let begin = task.mixed.start - span.row * query_width;
        if span.tokens.len() == 1 {
            // The heads under one key head lie side by side and go together.
            let heads = result.chunks_exact_mut(group * head).enumerate();
            for (number, result) in heads {
                let kv_head = begin / (group * head) + number;
                for (part, result) in result.chunks_mut(QUERIES_MAX * head).enumerate() {
                    let values = &projected[(kv_head * group + part * QUERIES_MAX) * head..];
                    let rows = result.len() / head;
                    let queries =
                        Queries { values, distance: head, rows, position: context.len(), step: 0, window };
                    attend(&self.shape, context, HeadAt { layer, kv_head }, &queries, result, head);
                }
            }
            return;
        }
        // Of many positions each head goes by itself.
        let (first, rows) = (begin / query_width, result.len() / query_width);
        for number in 0..config.heads {
            let values = &projected[first * distance + number * head..];
            let queries =
                Queries { values, distance, rows, position: context.len() + first, step: 1, window };
            let (result, kv_head) = (&mut result[number * head..], number / group);
            attend(&self.shape, context, HeadAt { layer, kv_head }, &queries, result, query_width);
        }
    }
}

/// The state between two steps.
type Guard<'s, 'p, 'a> = RwLockWriteGuard<'s, PassState<'p, 'a>>;

/// The thread that takes the parts of a call through the layers.
pub(super) struct Lead<'s, 'scope, 'p, 'a> {
    pub(super) pass: &'scope DecodePass<'p>,
    pub(super) state: &'scope RwLock<PassState<'p, 'a>>,
    /// Who does pieces beside this thread, and where such threads come from.
    pub(super) team: Option<(&'scope Team, &'s Scope<'scope>)>,
}

impl<'scope, 'p, 'a> Lead<'_, 'scope, 'p, 'a> {
    /// Takes all parts through the layers, at most `tokens_max` tokens at a time.
    pub(super) fn run_all(&self, tokens_max: usize) {
        let mut state = self.state.write().expect(WHOLE);
        let mut rows = 0;
        for part in 0..state.parts.len() {
            let tokens = state.parts[part].tokens.len();
            let mut first = 0;
            while first < tokens {
                let count = (tokens - first).min(tokens_max - rows);
                state.spans.push(TokenSpan { part, tokens: first..first + count, row: rows });
                (first, rows) = (first + count, rows + count);
                if rows == tokens_max {
                    state = self.run(state, rows);
                    state.spans.clear();
                    rows = 0;
                }
            }
        }
        if rows > 0 {
            drop(self.run(state, rows));
        }
    }

    /// Takes the spans through the layers.
    fn run(&self, mut state: Guard<'scope, 'p, 'a>, rows: usize) -> Guard<'scope, 'p, 'a> {
        state.rows = rows;
        self.embed(&mut state);
        self.set_tasks(&mut state);
        let model: &'p PackedDecoder = self.pass.model;
        for (layer, block) in model.blocks.iter().enumerate() {
            let (attention, adapters) = (&block.attention, model.adapters(layer));
            let adapter =
                |of: fn(&BlockAdapters) -> &Option<PackedAdapter>| adapters.and_then(|all| of(all).as_ref());
            self.norm(rows, state.workspace, &block.input_norm);
            let query_key_value = adapter(|all| &all.query_key_value);
            state = self.product(state, Source::Normed, &attention.query_key_value, query_key_value);
            let Workspace { results, projected, .. } = &mut *state.workspace;
            self.collect(rows, results, &attention.query_key_value, projected);
            self.place(&mut state, layer, block);
            let tasks = state.tasks.len();
            state = self.step(state, Step::Attend(layer), tasks);
            self.collect_mixed(&mut state);
            state = self.product(state, Source::Mixed, &attention.output, adapter(|all| &all.output));
            let bias = attention.output_bias.as_ref();
            self.add(rows, state.workspace, &attention.output, bias, &attention.joint);
            self.norm(rows, state.workspace, &block.feed_forward_norm);
            let adapters = adapters.map(|all| &all.gated[..]);
            state = match &block.feed_forward {
                PackedFeedForward::Gated(gated) => {
                    self.gated(state, rows, gated, adapters.map(|all| &all[0]))
                }
                PackedFeedForward::Experts(experts) => self.experts(state, rows, experts, adapters),
            };
        }
        let PassState { spans, parts, .. } = &mut *state;
        spans.iter().for_each(|span| parts[span.part].context.advance(span.tokens.len()));
        self.head(state)
    }

    /// From normed rows to the block's output.
    fn gated(
        &self,
        mut state: Guard<'scope, 'p, 'a>,
        rows: usize,
        gated: &'p PackedGated,
        adapters: Option<&'p GatedAdapters>,
    ) -> Guard<'scope, 'p, 'a> {
        let gate_up = adapters.and_then(|all| all.gate_up.as_ref());
        self.between(&mut state, Source::Normed, gate_up);
        state = self.step(state, Step::Gated(gated, gate_up), self.pieces(&gated.gate));
        let Workspace { results, active, .. } = &mut *state.workspace;
        self.collect(rows, results, &gated.gate, active);
        state = self.product(state, Source::Active, &gated.down, adapters.and_then(|all| all.down.as_ref()));
        self.add(rows, state.workspace, &gated.down, None, &gated.joint);
        state
    }

    /// Does the pieces of a step, with the team if there is one.
    fn step(&self, mut state: Guard<'scope, 'p, 'a>, step: Step<'p>, pieces: usize) -> Guard<'scope, 'p, 'a> {
        state.step = Some((step, pieces));
        let results = &mut state.workspace.results;
        results.resize_with(results.len().max(pieces), RwLock::default);
        let (pass, shared) = (self.pass, self.state);
        let Some((team, scope)) = self.team else {
            (1..=pieces).rev().for_each(|number| pass.piece(&state, number));
            return state;
        };
        drop(state);
        let work = move |number| pass.piece(&shared.read().expect(WHOLE), number);
        while team.wants_helper(pass.threads - 1) {
            scope.spawn(move |_| team.help(work));
        }
        team.lead(pieces, work);
        shared.write().expect(WHOLE)
    }

    /// `rows w^T` by blocks of columns, with what adapters add.
    fn product(
        &self,
        mut state: Guard<'scope, 'p, 'a>,
        source: Source,
        weight: &'p PackedMatrix,
        adapter: Option<&'p PackedAdapter>,
    ) -> Guard<'scope, 'p, 'a> {
        self.between(&mut state, source, adapter);
        self.step(state, Step::Product(source, weight, adapter), self.pieces(weight))
    }

    /// How many pieces a product with a weight has.
    fn pieces(&self, weight: &PackedMatrix) -> usize {
        weight.panels().div_ceil(self.pass.panels_each(weight))
    }

    /// The spans' tokens as rows of the residual stream.
    fn embed(&self, state: &mut PassState<'_, '_>) {
        let hidden = self.pass.model.config.hidden;
        let x = sized(&mut state.workspace.x, state.rows * hidden);
        let mut x = x.chunks_exact_mut(hidden);
        for span in &state.spans {
            for (&id, x) in state.parts[span.part].tokens[span.tokens.clone()].iter().zip(&mut x) {
                self.pass.model.embed(id, x);
            }
        }
    }

    /// Cuts the spans' attention into tasks.
    fn set_tasks(&self, state: &mut PassState<'_, '_>) {
        let config = &self.pass.model.config;
        let width = config.heads * config.head_width;
        let is_whole = state.spans.len() >= CONTEXTS_WHOLE * self.pass.threads;
        state.tasks.clear();
        for (number, span) in state.spans.iter().enumerate() {
            let len = match span.tokens.len() {
                1 if is_whole => width,
                1 => width / config.kv_heads,
                _ => QUERIES_MAX * width,
            };
            let end = (span.row + span.tokens.len()) * width;
            let begins = (span.row * width..end).step_by(len);
            state.tasks.extend(begins.map(|at| Task { span: number, mixed: at..end.min(at + len) }));
        }
    }

    /// Biases, norms and rotations, and keys and values into the caches.
    fn place(&self, state: &mut PassState<'_, '_>, layer: usize, block: &PackedBlock) {
        let config = &self.pass.model.config;
        let (query_width, key_width) =
            (config.heads * config.head_width, config.kv_heads * config.head_width);
        let half = config.head_width / 2;
        let scale = match config.spec.block.attention_scale {
            None => LOG2_E / (config.head_width as f32).sqrt(),
            Some(_) => LOG2_E * score_scale(config),
        };
        let (cos, sin) = self.pass.angles[block.rope];
        let mut rows = state.workspace.projected.chunks_exact_mut(query_width + 2 * key_width);
        for span in &state.spans {
            let context = &mut state.parts[span.part].context;
            let before = context.len();
            for (offset, row) in rows.by_ref().take(span.tokens.len()).enumerate() {
                let position = before + offset;
                let angles = (&cos[position * half..][..half], &sin[position * half..][..half]);
                let (query, rest) = row.split_at_mut(query_width);
                let (key, value) = rest.split_at_mut(key_width);
                let mut row = ProjectedRow { query, key, value };
                block.attention.finish_row(&mut row, angles, scale);
                context.write(&self.pass.shape, layer, position, row.key, row.value);
            }
        }
    }

    /// Logits of the last tokens of all parts that end here and want them.
    fn head(&self, mut state: Guard<'scope, 'p, 'a>) -> Guard<'scope, 'p, 'a> {
        let model = self.pass.model;
        let hidden = model.config.hidden;
        let PassState { parts, workspace, spans, .. } = &mut *state;
        let ends = |span: &&TokenSpan| {
            let part = &parts[span.part];
            part.logits.is_some() && span.tokens.end == part.tokens.len()
        };
        // Rows move to the front, each from behind or from where it is.
        let mut rows = 0;
        for span in spans.iter().filter(ends) {
            let row = span.row + span.tokens.len() - 1;
            workspace.x.copy_within(row * hidden..(row + 1) * hidden, rows * hidden);
            rows += 1;
        }
        if rows == 0 {
            return state;
        }
        state.rows = rows;
        self.norm(rows, state.workspace, &model.final_norm);
        state = self.product(state, Source::Normed, &model.head, None);
        let PassState { parts, spans, workspace, .. } = &mut *state;
        let width = self.pass.columns(&model.head);
        let mut row = 0;
        for span in &*spans {
            let part = &mut parts[span.part];
            if let Some(logits) = part.logits.as_mut().filter(|_| span.tokens.end == part.tokens.len()) {
                collect_row(&workspace.results, width, row, logits);
                if let Some(divisor) = model.config.spec.logits_divisor {
                    logits.iter_mut().for_each(|logit| *logit /= divisor);
                }
                row += 1;
            }
        }
        state
    }
}
