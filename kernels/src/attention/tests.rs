//! The fused attention is the plain one, in values and gradients.

use std::sync::Arc;

use proptest::prelude::{ProptestConfig, prop, proptest};

use super::{AttentionRows, attention, attention_plain};
use crate::test_tensors::{assert_close, noise};

/// Rows of queries and keys whose spans leave gaps, start late and see a prefix, all of it or by a window. In a
/// window of one key all gradients of scores are 0 but for roundings.
fn compare(lengths: &[(usize, usize)], kv_heads: usize, group: usize, width: usize, window: Option<usize>) {
    let mut spans = Vec::new();
    let (mut rows, mut keys) = (1, 2);
    for &(queries, prefix) in lengths {
        spans.push(AttentionRows {
            queries: rows..rows + queries,
            keys: keys..keys + prefix + queries,
            window,
        });
        (rows, keys) = (rows + queries, keys + prefix + queries + 1);
    }
    let spans: Arc<[AttentionRows]> = spans.into();
    let leaf = |shape, seed| (noise::<3>(shape, seed) * 2.0).autodiff().require_grad();
    let q = leaf([rows, kv_heads * group, width], 1);
    let k = leaf([keys, kv_heads, width], 2);
    let v = leaf([keys, kv_heads, width], 3);
    let upstream = noise::<3>([rows, kv_heads * group, width], 4);
    let fast = attention(q.clone(), k.clone(), v.clone(), &spans);
    let plain = attention_plain(q.clone(), k.clone(), v.clone(), &spans);
    assert_close("result", fast.clone(), plain.clone(), 2e-6);
    let fast = (fast * upstream.clone()).sum().backward();
    let plain = (plain * upstream).sum().backward();
    for (name, leaf) in [("dq", q), ("dk", k), ("dv", v)] {
        let gradient = |tape| leaf.grad(tape).expect("every input takes part");
        assert_close(name, gradient(&fast), gradient(&plain), 1e-5);
    }
}

#[test]
fn flash_equals_plain_where_blocks_and_tiles_begin_and_end() {
    for window in [None, Some(2), Some(63), Some(64), Some(65), Some(1000)] {
        compare(&[(1, 0)], 1, 1, 4, window);
        compare(&[(32, 0), (33, 64), (1, 130)], 2, 2, 16, window);
        compare(&[(200, 0)], 1, 4, 32, window);
        compare(&[(64, 1), (65, 63)], 3, 1, 48, window);
        // Several segments of keys, of which a query sees some.
        compare(&[(1100, 9)], 1, 1, 4, window);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn flash_equals_plain_on_any_spans(
        lengths in prop::collection::vec((1_usize..70, 0_usize..90), 1..4),
        kv_heads in 1_usize..3,
        group in 1_usize..4,
        half_width in 1_usize..20,
        window in prop::option::of(2_usize..100),
    ) {
        compare(&lengths, kv_heads, group, 2 * half_width, window);
    }
}
