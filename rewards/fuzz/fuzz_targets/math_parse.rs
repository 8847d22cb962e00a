//! Reads any text as mathematics and compares its halves: nothing may panic or take long, every text is equal to
//! itself, and the verdict is the same twice.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rewards::{MathConfig, is_equivalent, is_readable};

fuzz_target!(|text: &str| {
    let config = MathConfig::default();
    let (left, right) = text.split_once('\0').unwrap_or((text, "x+1"));
    is_readable(left);
    assert_eq!(is_equivalent(left, right, &config), is_equivalent(left, right, &config));
    // White space and dollars alone are no answer.
    if left.chars().any(|character| character.is_ascii_alphanumeric()) && is_readable(left) {
        assert!(is_equivalent(left, left, &config), "{left:?} is not itself");
    }
});
