//! Products against plain ones, to the bit where the cut must not matter.

use proptest::prelude::{prop_assert, proptest};

use super::{FactorShape, PackedMatrix, Packing, Precision, TILED_NUMBERS_MAX, add_multiply, multiply};
use crate::panel::Left;
use crate::test_tensors::{noise, numbers};

fn packed_weights(weights: Vec<&[f32]>, inner: usize, precision: Precision) -> PackedMatrix {
    let columns = weights.iter().map(|weights| weights.len() / inner).sum();
    let mut packing = Packing::new(&[FactorShape { columns, inner, precision }]);
    let mut first = 0;
    for weights in weights {
        packing.set(0, first, weights);
        first += weights.len() / inner;
    }
    packing.done().remove(0)
}

fn turned(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values[column..].iter().step_by(columns).copied()).collect()
}

proptest! {
    #[test]
    fn products_of_every_form_equal_plain_sums(
        rows in 1_usize..60,
        inner in 1_usize..700,
        columns in 1_usize..140,
    ) {
        let a = numbers(noise::<2>([rows, inner], 1));
        let b = numbers(noise::<2>([inner, columns], 2));
        let (a_turned, b_turned) = (turned(&a, inner), turned(&b, columns));
        // The weights of two products side by side.
        let parts = b_turned.split_at(columns / 2 * inner);
        let side_by_side = packed_weights(vec![parts.0, parts.1], inner, Precision::F32);
        let each = [PackedMatrix::rows(&b, inner, columns), PackedMatrix::transposed(&b_turned, inner, columns), side_by_side];
        for packed in each {
            for left in [Left::Rows(&a, inner), Left::Columns(&a_turned, rows)] {
                let mut c = vec![0.5; rows * columns];
                add_multiply(rows, left, &packed, &mut c);
                let mut fresh = vec![f32::NAN; rows * columns];
                multiply(rows, left, &packed, &mut fresh);
                for (at, (sum, fresh)) in c.iter().zip(&fresh).enumerate() {
                    let (row, column) = (at / columns, at % columns);
                    let plain: f64 = (0..inner)
                        .map(|k| f64::from(a[row * inner + k]) * f64::from(b[k * columns + column]))
                        .sum();
                    prop_assert!((f64::from(*fresh) - plain).abs() < 1e-4, "{fresh} is not {plain}");
                    prop_assert!((f64::from(*sum) - plain - 0.5).abs() < 1e-4);
                }
            }
        }
    }
}

/// Who calls may cut the rows anywhere, also where the whole left factor is too large to be tiled at once.
#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let (inner, columns) = (1100, 70);
    for rows in [29, TILED_NUMBERS_MAX / inner + 5] {
        let (a, b) = (numbers(noise::<2>([rows, inner], 1)), numbers(noise::<2>([columns, inner], 2)));
        for precision in [Precision::F32, Precision::Bf16, Precision::I8] {
            let packed = packed_weights(vec![&b], inner, precision);
            let mut whole = vec![0.0; rows * columns];
            multiply(rows, Left::Rows(&a, inner), &packed, &mut whole);
            for cut in [1, 5, 6, 12, 17] {
                let mut parts = vec![0.0; rows * columns];
                for (c, a) in parts.chunks_mut(cut * columns).zip(a.chunks(cut * inner)) {
                    multiply(c.len() / columns, Left::Rows(a, inner), &packed, c);
                }
                assert_eq!(parts, whole, "{rows} rows in blocks of {cut}, {precision:?}");
            }
        }
    }
}

#[test]
fn rounded_factors_are_off_by_their_precision_and_no_more() {
    let (rows, inner, columns) = (7, 150, 70);
    let (a, b) = (numbers(noise::<2>([rows, inner], 1)), numbers(noise::<2>([inner, columns], 2)));
    for (precision, bound) in [(Precision::Bf16, 1.0 / 256.0), (Precision::I8, 0.5 / 127.0)] {
        let packed = packed_weights(vec![&turned(&b, columns)], inner, precision);
        let mut c = vec![0.0; rows * columns];
        multiply(rows, Left::Rows(&a, inner), &packed, &mut c);
        let mut differs = false;
        for (at, found) in c.iter().enumerate() {
            let (row, column) = (at / columns, at % columns);
            let terms = (0..inner).map(|k| a[row * inner + k] * b[k * columns + column]);
            let exact: f32 = terms.sum();
            // Each number is off by at most the bound times the largest, which is 1.
            let most: f32 = (0..inner).map(|k| a[row * inner + k].abs() * bound).sum();
            assert!((found - exact).abs() <= most + 1e-5, "{precision:?}: {found}, not {exact}");
            differs |= (found - exact).abs() > 1e-5;
        }
        assert!(differs, "{precision:?} rounds nothing");
    }
}
