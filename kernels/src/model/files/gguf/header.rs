//! The header of a GGUF file: metadata, and where which tensor lies.
//!
//! A file is not trusted: every count and every length is held against the bytes that are left before memory is
//! taken for it, and tensors lie inside the file, aligned and apart from each other.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::path::Path;

use super::blocks::StoredType;
use super::metadata::{MetaValue, Metadata};
use crate::KernelError;

const MAGIC: [u8; 4] = *b"GGUF";

/// The alignment of tensors where the file names none.
const ALIGNMENT: u64 = 32;

/// Nobody aligns tensors to more; a wrong number must not push them out of the file unnoticed.
const ALIGNMENT_MAX: u64 = 1 << 20;

/// Names of keys and tensors have some tens of bytes; a longer one is a broken length, and would fill the error with it.
const KEY_BYTES_MAX: u64 = 512;

/// More dimensions than ggml has are a broken file.
const DIMENSIONS_MAX: u32 = 4;

/// A key with an empty name and a value of one byte: the length of the name, the type, the value.
const KEY_BYTES_MIN: u64 = 8 + 4 + 1;

/// A tensor with an empty name and one dimension: the length of the name, dimensions, type, place.
const PLACE_BYTES_MIN: u64 = 8 + 4 + 8 + 4 + 8;

/// What a file says before its tensors.
#[derive(Debug)]
pub struct Header {
    /// Keys and values.
    pub metadata: Metadata,
    /// The tensors in the order of the file.
    pub tensors: Vec<TensorPlace>,
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorPlace {
    /// Its name.
    pub name: String,
    /// Its dimensions; the first one is the innermost.
    pub dims: Vec<u64>,
    /// How its numbers are stored.
    pub kind: &'static StoredType,
    /// Where it begins in the file, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
}

impl TensorPlace {
    /// How many numbers the tensor has.
    #[must_use]
    pub fn numbers(&self) -> u64 {
        self.bytes / self.kind.bytes as u64 * self.kind.block as u64
    }
}

impl Header {
    /// Reads the header of a file of so many bytes; `path` is named in errors.
    ///
    /// # Errors
    /// Says what is wrong, with the key or the tensor.
    pub fn read(path: &Path, reader: impl Read, file_bytes: u64) -> Result<Self, KernelError> {
        let mut cursor = Cursor { path, reader, left: file_bytes };
        expect_version(&mut cursor)?;
        let tensors = cursor.u64("the number of tensors")?;
        let keys = cursor.u64("the number of keys")?;
        cursor.expect_room(keys, KEY_BYTES_MIN, &format!("{keys} keys"))?;
        cursor.expect_room(tensors, PLACE_BYTES_MIN, &format!("{tensors} tensors"))?;
        let metadata = read_metadata(&mut cursor, keys)?;
        let alignment = alignment(&metadata)?;
        let mut places = Vec::new();
        let mut names = HashSet::new();
        for number in 0..tensors {
            let place = read_place(&mut cursor, number, alignment)?;
            if !names.insert(place.name.clone()) {
                return Err(cursor.broken(format!("has tensor `{}` twice", place.name)));
            }
            places.push(place);
        }
        let start = (file_bytes - cursor.left).next_multiple_of(alignment);
        place_in_file(path, &mut places, start, file_bytes)?;
        Ok(Self { metadata, tensors: places })
    }
}

fn expect_version(cursor: &mut Cursor<'_, impl Read>) -> Result<(), KernelError> {
    let magic: [u8; 4] = cursor.array("the magic word")?;
    if magic != MAGIC {
        return Err(cursor.broken("is no GGUF file: it does not begin with `GGUF`".to_owned()));
    }
    match cursor.u32("the version")? {
        2 | 3 => Ok(()),
        version if version.swap_bytes() <= 0xffff => Err(cursor
            .broken("is a GGUF file of big-endian numbers; read are those of little-endian ones".to_owned())),
        version => Err(cursor.broken(format!("is a GGUF file of version {version}; read are 2 and 3"))),
    }
}

fn read_metadata(cursor: &mut Cursor<'_, impl Read>, keys: u64) -> Result<Metadata, KernelError> {
    let mut entries = BTreeMap::new();
    for number in 0..keys {
        let place = format!("the name of key {number}");
        let key = cursor.text(KEY_BYTES_MAX, &place)?;
        let kind = cursor.u32(&format!("the type of `{key}`"))?;
        let value = read_value(cursor, &key, kind)?;
        if entries.insert(key.clone(), value).is_some() {
            return Err(cursor.broken(format!("has the key `{key}` twice")));
        }
    }
    Ok(Metadata::new(cursor.path.to_owned(), entries))
}

/// The types of values, as the format numbers them.
mod kinds {
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const LIST: u32 = 9;
    pub(super) const FLOATS: [u32; 2] = [6, 12];
    /// Bytes of a number by its type.
    pub(super) const NUMBER_BYTES: [(u32, u64); 10] =
        [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (10, 8), (11, 8), (12, 8)];

    pub(super) fn bytes(kind: u32) -> Option<u64> {
        NUMBER_BYTES.iter().find(|(known, _)| *known == kind).map(|(_, bytes)| *bytes)
    }
}

fn read_value(cursor: &mut Cursor<'_, impl Read>, key: &str, kind: u32) -> Result<MetaValue, KernelError> {
    let what = format!("the value of `{key}`");
    match kind {
        kinds::BOOL => Ok(MetaValue::Flag(cursor.flag(&what)?)),
        kinds::TEXT => Ok(MetaValue::Text(cursor.text(u64::MAX, &what)?)),
        kinds::LIST => read_list(cursor, key),
        kind if kinds::FLOATS.contains(&kind) => Ok(MetaValue::Float(cursor.float(kind, &what)?)),
        kind if kinds::bytes(kind).is_some() => Ok(MetaValue::Integer(cursor.integer(kind, &what)?)),
        kind => Err(cursor.broken(format!("has a value of the unknown type {kind} under `{key}`"))),
    }
}

fn read_list(cursor: &mut Cursor<'_, impl Read>, key: &str) -> Result<MetaValue, KernelError> {
    let what = format!("an entry of `{key}`");
    let kind = cursor.u32(&what)?;
    let count = cursor.u64(&what)?;
    let entry_bytes = match kind {
        kinds::BOOL => 1,
        kinds::TEXT => 8,
        kinds::LIST => {
            return Err(cursor.broken(format!("has lists inside the list `{key}`; those are not read")));
        }
        kind => kinds::bytes(kind)
            .ok_or_else(|| cursor.broken(format!("has entries of the unknown type {kind} in `{key}`")))?,
    };
    cursor.expect_room(count, entry_bytes, &format!("{count} entries of `{key}`"))?;
    Ok(match kind {
        kinds::BOOL => MetaValue::Flags(cursor.list(count, |cursor| cursor.flag(&what))?),
        kinds::TEXT => MetaValue::Texts(cursor.list(count, |cursor| cursor.text(u64::MAX, &what))?),
        kind if kinds::FLOATS.contains(&kind) => {
            MetaValue::Floats(cursor.list(count, |cursor| cursor.float(kind, &what))?)
        }
        kind => MetaValue::Integers(cursor.list(count, |cursor| {
            let value = cursor.integer(kind, &what)?;
            i64::try_from(value).map_err(|_| cursor.broken(format!("has {value} in `{key}`")))
        })?),
    })
}

fn alignment(metadata: &Metadata) -> Result<u64, KernelError> {
    const KEY: &str = "general.alignment";
    match metadata.size(KEY)?.map(|alignment| alignment as u64) {
        None => Ok(ALIGNMENT),
        Some(alignment) if alignment.is_power_of_two() && (8..=ALIGNMENT_MAX).contains(&alignment) => {
            Ok(alignment)
        }
        Some(alignment) => Err(metadata
            .wrong(KEY, format!("is {alignment}; it must be a power of two from 8 to {ALIGNMENT_MAX}"))),
    }
}

/// Reads where a tensor lies, counted from where the tensors begin.
fn read_place(
    cursor: &mut Cursor<'_, impl Read>,
    number: u64,
    alignment: u64,
) -> Result<TensorPlace, KernelError> {
    let name = cursor.text(KEY_BYTES_MAX, &format!("the name of tensor {number}"))?;
    let what = format!("where tensor `{name}` lies");
    let dimensions = cursor.u32(&what)?;
    if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
        return Err(cursor.broken(format!("has tensor `{name}` with {dimensions} dimensions")));
    }
    let mut dims = Vec::new();
    for _ in 0..dimensions {
        dims.push(cursor.u64(&what)?);
    }
    let kind = cursor.u32(&what)?;
    let start = cursor.u64(&what)?;
    let tensor = |reason: String| cursor.broken(format!("tensor `{name}` {reason}"));
    let kind = StoredType::of(kind).map_err(tensor)?;
    let numbers = dims.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
    let numbers = numbers.filter(|numbers| *numbers > 0).ok_or_else(|| {
        tensor(format!("has dimensions {dims:?}, which make no number of entries that can be"))
    })?;
    if !dims[0].is_multiple_of(kind.block as u64) {
        let (row, block) = (dims[0], kind.block);
        return Err(tensor(format!("has rows of {row} numbers; {} has blocks of {block}", kind.name)));
    }
    let bytes = kind.bytes_of(numbers).ok_or_else(|| tensor(format!("has dimensions {dims:?}")))?;
    if !start.is_multiple_of(alignment) {
        return Err(tensor(format!("begins at {start}, which is no multiple of the alignment {alignment}")));
    }
    Ok(TensorPlace { name, dims, kind, start, bytes })
}

/// Makes places in the file of those that are counted from the first tensor on, after a look at all of them.
fn place_in_file(
    path: &Path,
    places: &mut [TensorPlace],
    start: u64,
    file_bytes: u64,
) -> Result<(), KernelError> {
    let broken = |reason: String| KernelError::content(path, reason);
    for place in &mut *places {
        let begin = start.checked_add(place.start);
        let end = begin.and_then(|begin| begin.checked_add(place.bytes)).filter(|end| *end <= file_bytes);
        let (Some(begin), Some(_)) = (begin, end) else {
            let (from, bytes, name) = (place.start, place.bytes, &place.name);
            return Err(broken(format!(
                "is truncated in tensor `{name}`: {bytes} bytes from {from} on do not fit behind the header, which \
                 ends at {start}, in {file_bytes} bytes"
            )));
        };
        place.start = begin;
    }
    let mut order: Vec<&TensorPlace> = places.iter().collect();
    order.sort_by_key(|place| place.start);
    for pair in order.windows(2) {
        if pair[0].start + pair[0].bytes > pair[1].start {
            let (first, second) = (&pair[0].name, &pair[1].name);
            return Err(broken(format!("has tensors `{first}` and `{second}` in the same place")));
        }
    }
    Ok(())
}

/// Reads on, and knows how many bytes are left.
struct Cursor<'a, R> {
    path: &'a Path,
    reader: R,
    left: u64,
}

impl<R: Read> Cursor<'_, R> {
    fn broken(&self, reason: String) -> KernelError {
        KernelError::content(self.path, reason)
    }

    /// Whether so many entries can be in what is left, each of which takes at least so many bytes.
    fn expect_room(&self, count: u64, bytes: u64, what: &str) -> Result<(), KernelError> {
        if count <= self.left / bytes {
            return Ok(());
        }
        let left = self.left;
        Err(self.broken(format!("is truncated or broken: {what} are not in the {left} bytes that are left")))
    }

    fn fill(&mut self, bytes: &mut [u8], what: &str) -> Result<(), KernelError> {
        let wanted = bytes.len() as u64;
        if wanted > self.left {
            return Err(self.broken(format!("is truncated: it ends in {what}")));
        }
        self.reader.read_exact(bytes).map_err(|source| KernelError::file(self.path, source))?;
        self.left -= wanted;
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], KernelError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, KernelError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, KernelError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn flag(&mut self, what: &str) -> Result<bool, KernelError> {
        match self.array(what)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.broken(format!("has {other} for {what}, which is neither true nor false"))),
        }
    }

    fn float(&mut self, kind: u32, what: &str) -> Result<f64, KernelError> {
        match kind {
            // The shortest decimal that is this number in f32: 1e-5 was written as such.
            6 => {
                let value = f32::from_le_bytes(self.array(what)?);
                Ok(value.to_string().parse().unwrap_or(f64::from(value)))
            }
            _ => Ok(f64::from_le_bytes(self.array(what)?)),
        }
    }

    fn integer(&mut self, kind: u32, what: &str) -> Result<i128, KernelError> {
        Ok(match kind {
            0 => self.array::<1>(what)?[0].into(),
            1 => i8::from_le_bytes(self.array(what)?).into(),
            2 => u16::from_le_bytes(self.array(what)?).into(),
            3 => i16::from_le_bytes(self.array(what)?).into(),
            4 => self.u32(what)?.into(),
            5 => i32::from_le_bytes(self.array(what)?).into(),
            10 => self.u64(what)?.into(),
            _ => i64::from_le_bytes(self.array(what)?).into(),
        })
    }

    fn text(&mut self, bytes_max: u64, what: &str) -> Result<String, KernelError> {
        let length = self.u64(what)?;
        if length > self.left.min(bytes_max) {
            let left = self.left;
            return Err(self.broken(format!(
                "is truncated or broken: {what} has {length} bytes of text, of {left} bytes that are left"
            )));
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes, what)?;
        String::from_utf8(bytes).map_err(|_| self.broken(format!("has {what} that is not UTF-8")))
    }

    fn list<T>(
        &mut self,
        count: u64,
        read: impl Fn(&mut Self) -> Result<T, KernelError>,
    ) -> Result<Vec<T>, KernelError> {
        (0..count).map(|_| read(self)).collect()
    }
}

#[cfg(test)]
mod tests;
