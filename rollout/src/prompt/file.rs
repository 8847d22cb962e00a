//! Files of rows as people have them: JSON Lines, with or without a byte-order mark, in UTF-8 or UTF-16, one JSON array,
//! Parquet or Arrow. The format is told by the file's name, or by what the config says. A row whose text is no JSON is the
//! matter of its reader; an array that is none is an error here, as nobody knows how many rows it would have had.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use super::columns::{ARROW_MAGIC, ColumnFile, Columns, PARQUET_MAGIC, STREAM_MAGIC};
use super::config::RowFormat;
use super::line::Line;
use crate::bad_rows::{RowProblem, RowRefusal};
use crate::error::RolloutError;

/// Bytes that tell a format: the longest magic number has six.
const MAGIC_BYTES: usize = 8;

/// What is no file of JSON, by its first bytes, and what to do with it.
const FOREIGN: [(&[u8], &str); 9] = [
    (PARQUET_MAGIC, "a Parquet file: let its name end with .parquet, or set data.format = \"parquet\""),
    (ARROW_MAGIC, "an Arrow file: let its name end with .arrow, or set data.format = \"arrow\""),
    (b"\x1f\x8b", "packed with gzip: unpack it with `gunzip`"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd: unpack it with `zstd -d`"),
    (b"BZh", "packed with bzip2: unpack it with `bzip2 -d`"),
    (b"\xfd7zXZ", "packed with xz: unpack it with `xz -d`"),
    (b"GGUF", "a GGUF model"),
    (b"SQLite", "an SQLite database: export its table as JSON lines"),
];

/// A file whose rows are read one after the other.
pub struct RowFile(Form);

enum Form {
    Text(TextFile),
    Columns(Box<ColumnFile>),
}

impl RowFile {
    /// Opens a file, in the format that its name says.
    ///
    /// # Errors
    /// If it cannot be opened, or is of a format that is not read.
    pub fn open(path: &Path) -> Result<Self, RolloutError> {
        Self::open_as(path, None)
    }

    /// Opens a file in a format; without one in the format that its name says.
    ///
    /// # Errors
    /// If it cannot be opened, or is of another format or one that is not read.
    pub fn open_as(path: &Path, format: Option<RowFormat>) -> Result<Self, RolloutError> {
        let file = File::open(path).map_err(|error| RolloutError::file(path, error))?;
        match columns(path, format) {
            Some(columns) => Self::of_columns(path, columns),
            None => Ok(Self(Form::Text(TextFile::of(path, file)?))),
        }
    }

    /// Reads what was opened as `path`. A file whose name says that it has columns is opened once more, since these are
    /// not read from the beginning to the end.
    ///
    /// # Errors
    /// If it cannot be read, or is of a format that is not read.
    pub fn of(path: &Path, input: impl Read + Send + 'static) -> Result<Self, RolloutError> {
        match columns(path, None) {
            Some(columns) => Self::of_columns(path, columns),
            None => Ok(Self(Form::Text(TextFile::of(path, input)?))),
        }
    }

    fn of_columns(path: &Path, columns: Columns) -> Result<Self, RolloutError> {
        let failed = |error| RolloutError::file(path, error);
        let mut head = Vec::new();
        let file = File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            let reason = "is no regular file, and a file of columns is read in pieces from all of its places";
            return Err(RolloutError::content(path, reason));
        }
        file.take(MAGIC_BYTES as u64).read_to_end(&mut head).map_err(failed)?;
        let (name, is_such) = match columns {
            Columns::Parquet => ("a Parquet file", head.starts_with(PARQUET_MAGIC)),
            Columns::Arrow => {
                ("an Arrow file or stream", head.starts_with(ARROW_MAGIC) || head.starts_with(STREAM_MAGIC))
            }
        };
        if !is_such {
            let remedy = "give it the ending of its format, or set data.format";
            return Err(RolloutError::content(path, format!("does not begin as {name} does: {remedy}")));
        }
        Ok(Self(Form::Columns(Box::new(ColumnFile::open(path, columns)?))))
    }

    /// The next row that is not blank. At the end of the file the log says how many lines were.
    ///
    /// # Errors
    /// If the file cannot be read on, or is an array that is not JSON.
    pub fn next_row(&mut self) -> Result<Option<Line>, RolloutError> {
        match &mut self.0 {
            Form::Text(file) => file.next_row(),
            Form::Columns(file) => file.next_row(),
        }
    }
}

/// The format of columns that a file has, if it has one.
fn columns(path: &Path, format: Option<RowFormat>) -> Option<Columns> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    match (format, ending.as_deref()) {
        (Some(RowFormat::Parquet), _) | (None, Some("parquet" | "pq")) => Some(Columns::Parquet),
        (Some(RowFormat::Arrow), _) | (None, Some("arrow" | "arrows" | "feather" | "ipc")) => {
            Some(Columns::Arrow)
        }
        _ => None,
    }
}

/// JSON lines, or a JSON array.
struct TextFile {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    number: usize,
    /// Lines without a row so far.
    blank: usize,
    /// Whether a row was seen: a file that begins with a bracket is an array.
    begun: bool,
    /// The rows of an array.
    elements: Option<Elements>,
}

impl TextFile {
    fn of(path: &Path, input: impl Read + Send + 'static) -> Result<Self, RolloutError> {
        let input = decoded(path, BufReader::new(input))?;
        Ok(Self { path: path.to_path_buf(), input, number: 0, blank: 0, begun: false, elements: None })
    }

    fn next_row(&mut self) -> Result<Option<Line>, RolloutError> {
        if let Some(elements) = &mut self.elements {
            let element = elements.next_row();
            let element =
                element.map_err(|broken| RolloutError::line(&self.path, broken.line, broken.reason))?;
            if element.is_some() {
                return Ok(element);
            }
        }
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            self.number += 1;
            let number = self.number;
            let failed = |error| RolloutError::line(&self.path, number, format!("cannot be read: {error}"));
            if self.input.read_until(b'\n', &mut bytes).map_err(failed)? == 0 {
                let blank = std::mem::take(&mut self.blank);
                if blank > 0 {
                    tracing::warn!("{}: {blank} blank lines were skipped", self.path.display());
                }
                return Ok(None);
            }
            if bytes.trim_ascii().is_empty() {
                self.blank += 1;
                continue;
            }
            if !self.begun && bytes.trim_ascii_start().starts_with(b"[") {
                self.input.read_to_end(&mut bytes).map_err(failed)?;
                let elements = Elements::of(bytes, number)
                    .map_err(|broken| RolloutError::line(&self.path, broken.line, broken.reason))?;
                (self.elements, self.begun) = (Some(elements), true);
                return self.next_row();
            }
            self.begun = true;
            return Ok(Some(Line::of_text(number, text(std::mem::take(&mut bytes)))));
        }
    }
}

fn text(bytes: Vec<u8>) -> Result<String, RowRefusal> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let byte = error.utf8_error().valid_up_to() + 1;
        RowProblem::Encoding.because(format!("not UTF-8 at byte {byte}: save the file as UTF-8"))
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
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => {
            return Err(RolloutError::content(path, "is UTF-32: save it as UTF-8"));
        }
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

/// What an array is, and what becomes of the rest of a file whose array is broken.
const ARRAY: &str =
    "the file begins with `[`, so it is read as one JSON array; the rows behind this place cannot be found";

/// The values of a JSON array, given one by one: small ones as lines of their own would take many times the file.
struct Elements {
    whole: String,
    place: ElementPlace,
}

/// How far an array has been read.
#[derive(Clone, Copy)]
struct ElementPlace {
    /// The next byte.
    at: usize,
    /// The line, counted up to a byte.
    number: usize,
    counted: usize,
    /// Whether a value was seen.
    begun: bool,
}

/// What is wrong with an array, and on which line.
struct BrokenArray {
    line: usize,
    reason: String,
}

impl Elements {
    /// An array that begins on line `first`.
    ///
    /// # Errors
    /// The line where it is not an array any more, and why. With one row left out, all behind it would go unnoticed too.
    fn of(bytes: Vec<u8>, first: usize) -> Result<Self, BrokenArray> {
        let whole = String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let lines = before.iter().filter(|byte| **byte == b'\n').count();
            BrokenArray {
                line: first + lines,
                reason: format!("not UTF-8: save the file as UTF-8 ({ARRAY})"),
            }
        })?;
        let at = whole.find('[').map_or(whole.len(), |at| at + 1);
        let begin = ElementPlace { at, number: first, counted: 0, begun: false };
        let mut place = begin;
        while place.next_value(&whole)?.is_some() {}
        Ok(Self { whole, place: begin })
    }

    fn next_row(&mut self) -> Result<Option<Line>, BrokenArray> {
        let value = self.place.next_value(&self.whole)?;
        Ok(value.map(|value| Line::of_text(self.place.number, Ok(value.to_owned()))))
    }
}

impl ElementPlace {
    /// The next value; `None` behind the last one.
    fn next_value<'a>(&mut self, whole: &'a str) -> Result<Option<&'a str>, BrokenArray> {
        let start = self.at + whole[self.at..].len() - whole[self.at..].trim_start().len();
        self.number += whole[self.counted..start].matches('\n').count();
        self.counted = start;
        let line = self.number;
        let broken =
            |reason: String| Err(BrokenArray { line, reason: format!("not JSON: {reason} ({ARRAY})") });
        if whole[start..].starts_with(']') && (!self.begun || !whole[..start].trim_end().ends_with(',')) {
            return match whole[start + 1..].trim().is_empty() {
                true => Ok(None),
                false => broken("text behind the end of the array".to_string()),
            };
        }
        let mut values = serde_json::Deserializer::from_str(&whole[start..]).into_iter::<IgnoredAny>();
        let value = values.next();
        let end = start + values.byte_offset();
        match value {
            Some(Ok(_)) => {}
            Some(Err(error)) => return broken(format!("{error}, counted from the row's beginning")),
            None => return broken("the array does not end".to_string()),
        }
        self.begun = true;
        self.at = end + whole[end..].len() - whole[end..].trim_start().len();
        match whole[self.at..].chars().next() {
            Some(',') => self.at += 1,
            Some(']') => {}
            _ => return broken("no `,` or `]` behind a value of the array".to_string()),
        }
        Ok(Some(&whole[start..end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<Line>, String> {
        let mut file =
            RowFile::of(Path::new("rows"), Cursor::new(bytes.to_vec())).map_err(|e| e.to_string())?;
        let mut rows = Vec::new();
        while let Some(line) = file.next_row().map_err(|error| error.to_string())? {
            rows.push(line);
        }
        Ok(rows)
    }

    fn good(bytes: &[u8]) -> Vec<(usize, String)> {
        let rows = read(bytes).expect("a format that is read").into_iter();
        rows.map(|Line { number, text, .. }| (number, text.expect("a text"))).collect()
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
        for mark in [b"\xff\xfe\0\0", b"\0\0\xfe\xff"] {
            assert!(read(&[&mark[..], &little].concat()).expect_err("UTF-32").contains("is UTF-32"));
        }
        assert!(good(b"").is_empty() && good(b"\n").is_empty() && good(b"\xef\xbb\xbf").is_empty());
    }

    #[test]
    fn an_array_is_rows_too() {
        let text = "\n[ {\"a\": [1, \"],[\"]},\n\n  {\"b\":\n 2}\n, 3]\n";
        let expected = [(2, "{\"a\": [1, \"],[\"]}"), (4, "{\"b\":\n 2}"), (6, "3")];
        assert_eq!(good(text.as_bytes()), expected.map(|(number, text)| (number, text.to_string())));
        assert!(good(b"[]").is_empty());
        for (text, number, reason) in [
            ("[{\"a\": 1},\n{\"a\" 2},\n{\"a\": 3}]", 2, "not JSON"),
            ("[{\"a\": 1}\n{\"a\": 2}]", 1, "no `,`"),
            ("[{\"a\": 1},\n]", 2, "not JSON"),
            ("[{\"a\": 1}", 1, "no `,`"),
            ("[1]\n{\"a\": 1}\n{\"a\": 2}\n", 1, "behind the end of the array"),
            ("[", 1, "does not end"),
        ] {
            let error = read(text.as_bytes()).expect_err(text);
            assert!(error.starts_with(&format!("rows:{number}: ")), "{text}: {error}");
            assert!(error.contains(reason) && error.contains("read as one JSON array"), "{text}: {error}");
        }
        let error = read(b"[{},\n{\"a\": \"\xff\"}]").expect_err("0xff");
        assert!(error.starts_with("rows:2: not UTF-8"), "{error}");
    }

    #[test]
    fn bytes_that_are_no_text_name_their_line() {
        let rows = read(b"{}\n{\"a\": \"\xff\"}\n{}\n").expect("lines");
        assert_eq!((rows.len(), rows[1].number), (3, 2));
        let refusal = rows[1].text.as_ref().expect_err("0xff");
        assert_eq!(refusal.problem, RowProblem::Encoding);
        assert!(refusal.reason.contains("not UTF-8 at byte 8"), "{refusal}");
    }

    #[test]
    fn other_formats_are_told() {
        for (magic, what) in FOREIGN {
            let error = read(&[magic, b"\x01\x02\x03\x04"].concat()).expect_err(what);
            assert!(error.starts_with("rows: is no file of JSON lines but "), "{error}");
        }
    }
}
