//! No template and no row makes the renderer panic or go on without end. The template and the row, JSON, stand in one
//! text with a zero byte between them; the environment is the one that chat templates have.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rollout::{RowTemplate, json_object};

/// What templates of public data sets read, where the input brings no row of its own.
const ROW: &str = r#"{"question": "1+1?", "level": 3, "extra": {"unit": "kg"}, "messages": [{"role": "user", "content": "a"}]}"#;

fuzz_target!(|input: &str| {
    let (template, row) = input.split_once('\0').unwrap_or((input, ROW));
    let Ok(fields) = json_object(row) else { return };
    if let Ok(template) = RowTemplate::new(template) {
        let _ = template.render(&fields);
    }
});
