//! Tiles and panels against plain products.

use super::{
    Buffer, Columns, Form, LANES, Left, Running, add_product, product, scale_columns, softmax_backward,
    softmax_columns,
};

fn buffer(len: usize, value: impl Fn(usize) -> f32) -> Buffer {
    let mut buffer = Buffer::zeros(len);
    for (i, to) in buffer.iter_mut().enumerate() {
        *to = value(i);
    }
    buffer
}

#[test]
fn products_agree_with_three_loops() {
    for (rows, inner, columns) in [(1, 1, 16), (4, 8, 32), (5, 7, 48), (13, 3, 64), (18, 33, 112)] {
        let a = buffer(rows * inner, |i| (i as f32 * 0.7).sin());
        let b = buffer(inner * columns, |i| (i as f32 * 0.3).cos());
        for left in [Left::Rows(&a, inner), Left::Columns(&a, rows)] {
            let element = |i, k| match left {
                Left::Rows(values, distance) => values[i * distance + k],
                Left::Columns(values, distance) => values[k * distance + i],
            };
            let form = Form { rows, inner, columns };
            let (mut written, mut added) = (vec![9.0; rows * columns], vec![1.0; rows * columns]);
            product(form, left, &b, &mut written);
            add_product(form, left, &b, &mut added);
            for i in 0..rows {
                for j in 0..columns {
                    let exact: f32 = (0..inner).map(|k| element(i, k) * b[k * columns + j]).sum();
                    assert!((written[i * columns + j] - exact).abs() < 1e-5);
                    assert!((added[i * columns + j] - 1.0 - exact).abs() < 1e-5);
                }
            }
        }
    }
}

#[test]
fn two_tiles_soften_as_one_column_of_scores() {
    // A score of 40 less another is rounded by 2e-6, and so is the weight's exponent.
    let (keys, columns) = (9, 32);
    let score = |key: usize, column: usize| ((key * 5 + column) as f32 * 0.61).sin() * 40.0;
    let seen = |column: usize| (column % keys + 1) as f32;
    let mut running = Running::new(columns);
    let mut first = buffer(keys * columns, |i| score(i / columns, i % columns));
    softmax_columns(&mut first, None, &mut running);
    let mut second = buffer(keys * columns, |i| score(keys + i / columns, i % columns));
    softmax_columns(&mut second, Some(&buffer(columns, seen)), &mut running);
    scale_columns(&mut first, &running.shrink);
    for column in 0..columns {
        let all = keys + seen(column) as usize;
        let scores: Vec<f64> = (0..all).map(|key| f64::from(score(key, column))).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        assert_eq!(f64::from(running.largest[column]), largest);
        let total: f64 = scores.iter().map(|score| (score - largest).exp2()).sum();
        assert!((f64::from(running.total[column]) / total - 1.0).abs() < 1e-6);
        for key in 0..2 * keys {
            let exact = scores.get(key).map_or(0.0, |score| (score - largest).exp2());
            let tile = if key < keys { &first } else { &second };
            let weight = f64::from(tile[key % keys * columns + column]);
            assert!((weight - exact).abs() <= 5e-6 * exact + 1e-30, "{weight}, not {exact}");
        }
    }
}

#[test]
fn gradients_of_a_tile_are_the_weight_times_what_is_not_common() {
    let (keys, columns) = (5, LANES);
    let mut scores = buffer(keys * columns, |i| -(i as f32 * 1.7) % 150.0);
    let mut gradients = buffer(keys * columns, |i| (i as f32).cos());
    let (before, upstream) = (scores.to_vec(), gradients.to_vec());
    let log_sum_exp = buffer(columns, |i| i as f32 * 0.1);
    let delta = buffer(columns, |i| i as f32 * 0.01);
    let seen = buffer(columns, |i| (i % (keys + 1)) as f32);
    let of_columns = Columns { log_sum_exp: &log_sum_exp, delta: &delta, seen: Some(&seen) };
    softmax_backward(&mut scores, &mut gradients, of_columns);
    for i in 0..keys * columns {
        let (key, column) = (i / columns, i % columns);
        let exact = (f64::from(before[i]) - f64::from(log_sum_exp[column])).exp2();
        let exact = if key < column % (keys + 1) { exact } else { 0.0 };
        assert!((f64::from(scores[i]) - exact).abs() <= 1e-5 * exact + 2e-38);
        let gradient = exact * f64::from(upstream[i] - delta[column]);
        assert!((f64::from(gradients[i]) - gradient).abs() <= 2e-5 * exact + 4e-38);
    }
}

#[test]
fn a_score_that_is_no_number_stays_visible() {
    let columns = LANES;
    let mut tile = buffer(2 * columns, |i| if i == 3 { f32::NAN } else { 0.0 });
    softmax_columns(&mut tile, None, &mut Running::new(columns));
    assert!(tile[3].is_nan(), "{}", tile[3]);
    assert!(tile.iter().enumerate().all(|(i, weight)| i % columns == 3 || *weight == 1.0));
}
