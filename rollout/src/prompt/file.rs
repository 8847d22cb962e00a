//! Files of JSON rows as people have them: JSON Lines, with or without a byte-order mark, in UTF-8 or UTF-16, or one JSON
//! array. Other formats are told by their first bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use crate::error::RolloutError;

/// Bytes that tell a format: the longest magic number has six.
const MAGIC_BYTES: usize = 8;

/// What is not read, by its first bytes, and what makes a file of JSON lines of it.
const FOREIGN: [(&[u8], &str); 9] = [
    (
        b"PAR1",
        "a Parquet file: convert it, for example with pandas.read_parquet(..).to_json(.., orient=\"records\", \
               lines=True)",
    ),
    (b"ARROW1", "an Arrow file: convert it to JSON lines, for example with `datasets`' to_json"),
    (b"\x1f\x8b", "packed with gzip: unpack it with `gunzip`"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd: unpack it with `zstd -d`"),
    (b"BZh", "packed with bzip2: unpack it with `bzip2 -d`"),
    (b"\xfd7zXZ", "packed with xz: unpack it with `xz -d`"),
    (b"GGUF", "a GGUF model"),
    (b"SQLite", "an SQLite database: export its table as JSON lines"),
];

/// One row as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The line that it begins on, counted from 1.
    pub number: usize,
    /// Its text, or why it has none.
    pub text: Result<String, String>,
}

/// A file whose rows are read one after the other.
pub struct RowFile {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    number: usize,
    /// Whether a row was seen: a file that begins with a bracket is an array.
    begun: bool,
    /// The rows of an array, last one first.
    elements: Vec<Line>,
}

impl RowFile {
    /// Opens a file.
    ///
    /// # Errors
    /// If it cannot be opened, or is of a format that is not read.
    pub fn open(path: &Path) -> Result<Self, RolloutError> {
        let file = File::open(path).map_err(|error| RolloutError::file(path, error))?;
        Self::of(path, file)
    }

    /// Reads what was opened as `path`.
    ///
    /// # Errors
    /// If it cannot be read, or is of a format that is not read.
    pub fn of(path: &Path, input: impl Read + Send + 'static) -> Result<Self, RolloutError> {
        let input = decoded(path, BufReader::new(input))?;
        Ok(Self { path: path.to_path_buf(), input, number: 0, begun: false, elements: Vec::new() })
    }

    /// The next row that is not blank.
    ///
    /// # Errors
    /// If the file cannot be read on.
    pub fn next_row(&mut self) -> Result<Option<Line>, RolloutError> {
        if let Some(element) = self.elements.pop() {
            return Ok(Some(element));
        }
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            self.number += 1;
            let number = self.number;
            let failed = |error| RolloutError::line(&self.path, number, format!("cannot be read: {error}"));
            if self.input.read_until(b'\n', &mut bytes).map_err(failed)? == 0 {
                return Ok(None);
            }
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            if !self.begun && bytes.trim_ascii_start().starts_with(b"[") {
                self.input.read_to_end(&mut bytes).map_err(failed)?;
                self.elements = elements(bytes, number);
                self.elements.reverse();
                self.begun = true;
                return Ok(self.elements.pop());
            }
            self.begun = true;
            return Ok(Some(Line { number, text: text(std::mem::take(&mut bytes)) }));
        }
    }
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    let text = String::from_utf8(bytes).map_err(|error| {
        format!("not UTF-8 at byte {}: save the file as UTF-8", error.utf8_error().valid_up_to() + 1)
    })?;
    Ok(text.trim_end_matches(['\n', '\r']).to_string())
}

/// The input as UTF-8 without a byte-order mark.
fn decoded(
    path: &Path,
    mut input: impl BufRead + Send + 'static,
) -> Result<Box<dyn BufRead + Send>, RolloutError> {
    let failed = |error| RolloutError::file(path, error);
    let mut head = Vec::new();
    input.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut head).map_err(failed)?;
    if let Some((_, what)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(RolloutError::content(path, format!("is no file of JSON lines but {what}")));
    }
    if head.starts_with(&[0xef, 0xbb, 0xbf]) {
        return Ok(Box::new(Cursor::new(head.split_off(3)).chain(input)));
    }
    let unit = match head.as_slice() {
        [0xff, 0xfe, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] => u16::from_be_bytes,
        [0, _, ..] | [_, 0, ..] => {
            let reason = "is UTF-16 or UTF-32 without a byte-order mark, or no text: save it as UTF-8";
            return Err(RolloutError::content(path, reason));
        }
        _ => return Ok(Box::new(Cursor::new(head).chain(input))),
    };
    let mut bytes = head.split_off(2);
    input.read_to_end(&mut bytes).map_err(failed)?;
    let units = bytes.chunks(2).map(|pair| unit([pair[0], pair.get(1).copied().unwrap_or_default()]));
    let text: Result<String, _> = char::decode_utf16(units).collect();
    let text = text.map_err(|error| RolloutError::content(path, format!("broken UTF-16: {error}")))?;
    Ok(Box::new(Cursor::new(text.into_bytes())))
}

/// The values of a JSON array that begins on line `first`, each with its line. What stands behind a broken one is not
/// known.
fn elements(bytes: Vec<u8>, first: usize) -> Vec<Line> {
    let broken = |number, reason: String| Line { number, text: Err(reason) };
    let whole = match text(bytes) {
        Ok(whole) => whole,
        Err(reason) => return vec![broken(first, reason)],
    };
    let mut lines = Vec::new();
    let mut at = whole.find('[').map_or(whole.len(), |at| at + 1);
    let (mut number, mut counted) = (first, 0);
    loop {
        at += whole[at..].len() - whole[at..].trim_start().len();
        number += whole[counted..at].matches('\n').count();
        counted = at;
        if whole[at..].starts_with(']') && (lines.is_empty() || !whole[..at].trim_end().ends_with(',')) {
            if !whole[at + 1..].trim().is_empty() {
                lines.push(broken(number, "not JSON: text behind the end of the array".to_string()));
            }
            return lines;
        }
        let mut values = serde_json::Deserializer::from_str(&whole[at..]).into_iter::<IgnoredAny>();
        let value = values.next();
        let end = at + values.byte_offset();
        let error = match value {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(format!("not JSON: {error}, counted from the row's beginning")),
            None => Some("not JSON: the array does not end".to_string()),
        };
        if let Some(reason) = error {
            lines.push(broken(number, reason));
            return lines;
        }
        lines.push(Line { number, text: Ok(whole[at..end].to_string()) });
        at = end + whole[end..].len() - whole[end..].trim_start().len();
        match whole[at..].chars().next() {
            Some(',') => at += 1,
            Some(']') => {}
            _ => {
                lines.push(broken(number, "not JSON: no `,` or `]` behind a value of the array".to_string()));
                return lines;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of a line and its text, or why it is none.
    type Line = (usize, Result<String, String>);

    fn read(bytes: &[u8]) -> Result<Vec<Line>, String> {
        let mut file =
            RowFile::of(Path::new("rows"), Cursor::new(bytes.to_vec())).map_err(|e| e.to_string())?;
        let mut rows = Vec::new();
        while let Some(line) = file.next_row().map_err(|error| error.to_string())? {
            rows.push((line.number, line.text));
        }
        Ok(rows)
    }

    fn good(bytes: &[u8]) -> Vec<(usize, String)> {
        let rows = read(bytes).expect("a format that is read").into_iter();
        rows.map(|(number, text)| (number, text.expect("a text"))).collect()
    }

    const TWO: &str = "{\"a\": \"é\u{2028}\"}\r\n\n  \n{\"b\": 2}";

    fn two() -> Vec<(usize, String)> {
        vec![(1, "{\"a\": \"é\u{2028}\"}".to_string()), (4, "{\"b\": 2}".to_string())]
    }

    #[test]
    fn lines_come_with_their_numbers_in_every_encoding() {
        assert_eq!(good(TWO.as_bytes()), two());
        assert_eq!(good(&[b"\xef\xbb\xbf", TWO.as_bytes()].concat()), two());
        let units: Vec<u16> = TWO.encode_utf16().collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        assert_eq!(good(&[&b"\xff\xfe"[..], &little].concat()), two());
        assert_eq!(good(&[&b"\xfe\xff"[..], &big].concat()), two());
        assert!(read(&little).expect_err("no mark").contains("save it as UTF-8"));
        assert!(good(b"").is_empty() && good(b"\n").is_empty() && good(b"\xef\xbb\xbf").is_empty());
    }

    #[test]
    fn an_array_is_rows_too() {
        let text = "\n[ {\"a\": [1, \"],[\"]},\n\n  {\"b\":\n 2}\n, 3]\n";
        let expected = [(2, "{\"a\": [1, \"],[\"]}"), (4, "{\"b\":\n 2}"), (6, "3")];
        assert_eq!(good(text.as_bytes()), expected.map(|(number, text)| (number, text.to_string())));
        assert!(good(b"[]").is_empty());
        for (text, number, reason) in [
            ("[{\"a\": 1},\n{\"a\" 2}]", 2, "not JSON"),
            ("[{\"a\": 1}\n{\"a\": 2}]", 1, "no `,`"),
            ("[{\"a\": 1},\n]", 2, "not JSON"),
            ("[{\"a\": 1}", 1, "no `,`"),
            ("[{\"a\": 1}]\nx", 1, "behind the end"),
            ("[", 1, "does not end"),
        ] {
            let rows = read(text.as_bytes()).expect("an array");
            let (line, last) = rows.last().expect("a broken row");
            let told = last.as_ref().expect_err("the last is broken");
            assert!(*line == number && told.contains(reason), "{text}: {line}: {told}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_name_their_line() {
        let rows = read(b"{}\n{\"a\": \"\xff\"}\n{}\n").expect("lines");
        assert_eq!((rows.len(), rows[1].0), (3, 2));
        assert!(rows[1].1.as_ref().expect_err("0xff").contains("not UTF-8 at byte 8"));
    }

    #[test]
    fn other_formats_are_told() {
        for (magic, what) in FOREIGN {
            let error = read(&[magic, b"\x01\x02\x03\x04"].concat()).expect_err(what);
            assert!(error.starts_with("rows: is no file of JSON lines but "), "{error}");
        }
    }
}
