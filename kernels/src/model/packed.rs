//! A model's parameters in the form that products read: matrices packed at a precision, routers, norms and biases in f32.
//!
//! Nobody trains them. All who compute with them share them: decoding, the training of adapters beside them, evaluation
//! and a reference. They are set some rows at a time, so that a model can be packed while it is read.

use std::fmt;
use std::sync::Arc;

use super::config::DecoderConfig;
use super::numbers::{Numbers, PackedRows};
use super::weights::{Weights, is_router, is_vector};
use crate::flex::Rows;
use crate::gemm::{FactorShape, PackedMatrix, Packing, Precision};

mod updated;

/// Parameters that are packed.
pub struct PackedWeights {
    weights: Weights<Numbers>,
    head: Numbers,
    precision: Precision,
}

impl fmt::Debug for PackedWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedWeights").field("precision", &self.precision).finish_non_exhaustive()
    }
}

impl PackedWeights {
    /// What decoding reads of a model: matrices are rounded to a precision. The rows of the embedding stay as they are.
    pub(crate) fn for_decoding(
        config: &DecoderConfig,
        numbers: &Weights<Numbers>,
        precision: Precision,
    ) -> Self {
        // In f32 the head serves as a tied embedding.
        let embedding = (config.tied && precision == Precision::F32).then_some(precision);
        Self::of(PackingWeights::new(config, precision, embedding), numbers)
    }

    /// The whole model at a precision, its embedding too.
    pub(crate) fn whole(config: &DecoderConfig, numbers: &Weights<Numbers>, precision: Precision) -> Self {
        let embedding = looked_up_at(precision);
        Self::of(PackingWeights::new(config, precision, Some(embedding)), numbers)
    }

    fn of(mut packing: PackingWeights, numbers: &Weights<Numbers>) -> Self {
        for (parameter, (_, numbers)) in numbers.named().into_iter().enumerate() {
            match numbers {
                Numbers::Rows(rows) => packing.share(parameter, rows),
                packed => packing.copy(parameter, packed),
            }
        }
        packing.done()
    }

    /// The parameters by their place.
    pub(crate) fn numbers(&self) -> &Weights<Numbers> {
        &self.weights
    }

    /// The matrix of the head.
    pub(crate) fn head(&self) -> &Numbers {
        &self.head
    }

    /// The precision of the matrices.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Memory that a whole model takes at a precision, in bytes, from its shapes.
    #[must_use]
    pub fn planned_bytes(config: &DecoderConfig, precision: Precision) -> u64 {
        let (factors, places) = layout(config, precision, Some(looked_up_at(precision)));
        let packed: usize = factors.iter().map(FactorShape::bytes).sum();
        let kept = places.iter().filter(|place| !matches!(place.rows, KeptRows::No));
        let rows: usize = kept.map(|place| place.shape[0] * place.shape[1]).sum();
        (packed + 4 * rows) as u64
    }

    /// Memory of all numbers, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let mut factors: Vec<&Arc<PackedMatrix>> = Vec::new();
        let mut rows = 0;
        for numbers in self.weights.named().into_iter().map(|(_, numbers)| numbers).chain([&self.head]) {
            match numbers {
                Numbers::Rows(own) => rows += 4 * own.slice().len(),
                Numbers::Packed(PackedRows { factor, .. }) => factors.push(factor),
            }
        }
        // Matrices whose products lie side by side are neighbours, but a tied head stands at the other end.
        factors.sort_by_key(|factor| Arc::as_ptr(factor));
        factors.dedup_by(|one, other| Arc::ptr_eq(one, other));
        rows + factors.iter().map(|factor| factor.bytes()).sum::<usize>()
    }
}

/// The precision of rows of an embedding that is packed: 8 bits are for products alone.
pub(crate) fn looked_up_at(precision: Precision) -> Precision {
    if precision == Precision::I8 { Precision::Bf16 } else { precision }
}

/// Parameters on their way into factors.
pub(crate) struct PackingWeights {
    shapes: Weights<[usize; 2]>,
    precision: Precision,
    packing: Packing,
    /// In the order of [`Weights::for_each`], as parameters are numbered here.
    places: Vec<Place>,
}

/// Where the numbers of a parameter go.
struct Place {
    shape: [usize; 2],
    rows: KeptRows,
    /// A tied embedding may be packed twice, for its rows and for products.
    factors: Vec<FactorColumns>,
}

/// The numbers of a parameter that is kept in f32.
enum KeptRows {
    No,
    Own(Vec<f32>),
    Shared(Rows),
}

#[derive(Clone, Copy)]
struct FactorColumns {
    factor: usize,
    /// The first of its columns.
    first: usize,
}

impl PackingWeights {
    /// Room for a model whose matrices are packed at a precision, and the rows of its embedding at another one; `None`
    /// keeps these in f32, row-major.
    pub(crate) fn new(config: &DecoderConfig, precision: Precision, embedding: Option<Precision>) -> Self {
        let (factors, places) = layout(config, precision, embedding);
        Self { shapes: config.shapes(), precision, packing: Packing::new(&factors), places }
    }

    /// Sets rows of a parameter, from the first one on. Each row is set once, and those of a norm, a bias or an embedding
    /// in their order.
    pub(crate) fn set(&mut self, parameter: usize, first: usize, rows: &[f32]) {
        let Place { shape: [count, inner], rows: kept, factors } = &mut self.places[parameter];
        if let KeptRows::Own(kept) = kept {
            assert_eq!(kept.len(), first * *inner, "rows in their order");
            kept.reserve_exact(*count * *inner - kept.len());
            kept.extend_from_slice(rows);
        }
        for columns in factors {
            self.packing.set(columns.factor, columns.first + first, rows);
        }
    }

    /// Sets a parameter whose numbers, as far as they are kept in f32, are not copied.
    fn share(&mut self, parameter: usize, rows: &Rows) {
        let place = &mut self.places[parameter];
        if !matches!(place.rows, KeptRows::No) {
            place.rows = KeptRows::Shared(rows.clone());
        }
        for columns in &place.factors {
            self.packing.set(columns.factor, columns.first, rows.slice());
        }
    }

    /// Sets a parameter that is packed otherwise, some rows at a time.
    fn copy(&mut self, parameter: usize, numbers: &Numbers) {
        let (mut first, inner) = (0, self.places[parameter].shape[1]);
        let copied = numbers.in_parts(&mut |rows| {
            self.set(parameter, first, rows);
            first += rows.len() / inner;
            Ok(())
        });
        copied.expect("nothing is written that could fail");
    }

    /// The parameters.
    ///
    /// # Panics
    /// If a parameter that is kept in f32 is not there as a whole.
    pub(crate) fn done(self) -> PackedWeights {
        let factors: Vec<Arc<PackedMatrix>> = self.packing.done().into_iter().map(Arc::new).collect();
        let packed = |columns: FactorColumns, [rows, _]: [usize; 2]| {
            let factor = Arc::clone(&factors[columns.factor]);
            Numbers::Packed(PackedRows { factor, columns: columns.first..columns.first + rows })
        };
        // The last factor of an embedding, and the only one of a head, is that of products.
        let head = if self.shapes.head.is_some() { self.places.last() } else { self.places.first() };
        let head = head.and_then(|place| Some(packed(*place.factors.last()?, place.shape)));
        let head = head.expect("the head is packed");
        let mut numbers = self.places.into_iter().map(|place| match place.rows {
            KeptRows::Own(rows) => {
                assert_eq!(rows.len(), place.shape[0] * place.shape[1], "a whole parameter");
                Numbers::Rows(Rows::owning(rows, place.shape))
            }
            KeptRows::Shared(rows) => Numbers::Rows(rows),
            KeptRows::No => packed(place.factors[0], place.shape),
        });
        let weights = self.shapes.in_order(|| numbers.next().expect("a place a parameter"));
        PackedWeights { weights, head, precision: self.precision }
    }
}

/// The factors of a model, and where its parameters go, in their order.
fn layout(
    config: &DecoderConfig,
    precision: Precision,
    embedding: Option<Precision>,
) -> (Vec<FactorShape>, Vec<Place>) {
    let shapes = config.shapes();
    let mut factors: Vec<FactorShape> = Vec::new();
    let mut places: Vec<Place> = Vec::new();
    let place_in = |factors: &mut Vec<FactorShape>, [columns, inner]: [usize; 2], precision| {
        factors.push(FactorShape { columns, inner, precision });
        FactorColumns { factor: factors.len() - 1, first: 0 }
    };
    shapes.for_each(|name, &shape| {
        let mut place = Place { shape, rows: KeptRows::No, factors: Vec::new() };
        if is_vector(name) {
            place.rows = KeptRows::Own(Vec::new());
        } else if places.is_empty() {
            match embedding {
                Some(precision) => place.factors.push(place_in(&mut factors, shape, precision)),
                None => place.rows = KeptRows::Own(Vec::new()),
            }
            if config.tied && embedding != Some(precision) {
                place.factors.push(place_in(&mut factors, shape, precision));
            }
        } else if is_beside(name) {
            let beside = factors.last_mut().expect("a projection that it is beside of");
            let first = beside.columns;
            beside.columns += shape[0];
            place.factors.push(FactorColumns { factor: factors.len() - 1, first });
        } else {
            let precision = if is_router(name) { Precision::F32 } else { precision };
            place.factors.push(place_in(&mut factors, shape, precision));
        }
        places.push(place);
    });
    (factors, places)
}

/// Whether a projection has the same rows as the one before it, so that both are one product.
fn is_beside(name: &str) -> bool {
    name.ends_with("self_attn.k_proj.weight") || name.ends_with("self_attn.v_proj.weight")
}
