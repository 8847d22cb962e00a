//! Guards invariant 10 and the promise of StreamBP: the chunked step needs at most a third of the memory of
//! the whole one on a long sequence. Measured as the peak of a process of its own for each.

use serde_json::Value;

use crate::binary::success;

fn peak_bytes(path: &str) -> f64 {
    let said =
        success(&["bench", "streambp", "--tokens", "2048", "--paths", path, "--repeats", "1", "--json"]);
    let row: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(row["path"], path);
    row["peak_bytes"].as_f64().unwrap()
}

#[test]
fn the_chunked_step_needs_a_third_of_the_memory() {
    let (whole, streamed) = (peak_bytes("unchunked"), peak_bytes("streambp"));
    assert!(streamed * 3.0 <= whole, "{streamed} bytes streamed, {whole} whole");
}
