//! Sizes and counts that a file of columns claims, held against the bytes that it has, before its reader reserves memory
//! for them. A page or buffer is unpacked to at most what its codec can make of its bytes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use arrow_ipc::{BodyCompression, CompressionType, Message, RecordBatch, root_as_footer, root_as_message};
use parquet::basic::Compression;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

use super::said;

/// Bytes of a page's header that are read at first, and where its statistics need more.
const HEADER_BYTES: [u64; 2] = [4096, 1 << 24];
/// Bytes that a short page or buffer may be unpacked to, whatever its codec.
const SMALL_BYTES: u64 = 1 << 16;
/// The longest metadata of an Arrow message: a schema of thousands of columns has some hundred kilobytes.
const METADATA_BYTES_MAX: u64 = 1 << 28;

/// Holds the footer of a Parquet file and the headers of its pages against its size. Gives its number of rows.
pub(super) fn check_parquet(metadata: &ParquetMetaData, mut file: File, bytes: u64) -> Result<u64, String> {
    let mut rows = 0u64;
    for (place, group) in metadata.row_groups().iter().enumerate() {
        let within = |reason: String| format!("row group {}: {reason}", place + 1);
        let count =
            u64::try_from(group.num_rows()).map_err(|_| within("a negative number of rows".to_owned()))?;
        rows = rows.checked_add(count).ok_or_else(|| within(format!("{count} rows")))?;
        for column in group.columns() {
            let name = column.column_path().string();
            let within = |reason: String| within(format!("column `{name}`: {reason}"));
            let values = check_chunk(column, &mut file, bytes).map_err(within)?;
            // Without lists a column has a value, or a mark of a missing one, for each row.
            if column.column_descr().max_rep_level() == 0 && values != count {
                return Err(within(format!("it has {values} values, but the row group claims {count} rows")));
            }
        }
        if group.columns().is_empty() && count > 0 {
            return Err(within(format!("it claims {count} rows without a column")));
        }
    }
    Ok(rows)
}

/// Goes through the pages of a column and gives the number of its values.
fn check_chunk(column: &ColumnChunkMetaData, file: &mut File, bytes: u64) -> Result<u64, String> {
    let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
    let lies = || format!("it claims bytes outside of the file's {bytes}");
    let start = u64::try_from(start).map_err(|_| lies())?;
    let size = u64::try_from(column.compressed_size()).map_err(|_| lies())?;
    let end = start.checked_add(size).filter(|end| *end <= bytes).ok_or_else(lies)?;
    let (mut at, mut values) = (start, 0u64);
    while at < end {
        let header = page_header(file, at, end)?;
        let (packed, unpacked) = (header.packed, header.unpacked);
        let behind = at + header.bytes + packed;
        if behind > end {
            return Err(format!("a page claims {packed} bytes, more than its column has"));
        }
        if unpacked > unpacked_max(column.compression(), packed) {
            return Err(format!("a page of {packed} bytes claims to be unpacked to {unpacked}"));
        }
        match header.kind {
            Page::Dictionary if header.values > unpacked => {
                return Err(format!("a dictionary of {unpacked} bytes claims {} values", header.values));
            }
            Page::Values => values = values.saturating_add(header.values),
            _ => {}
        }
        at = behind;
    }
    let claimed = column.num_values();
    match u64::try_from(claimed) == Ok(values) {
        true => Ok(values),
        false => Err(format!("it claims {claimed} values, but its pages have {values}")),
    }
}

/// What a codec can make of so many bytes at most.
fn unpacked_max(codec: Compression, packed: u64) -> u64 {
    let factor = match codec {
        Compression::UNCOMPRESSED => 1,
        Compression::SNAPPY => 32,
        Compression::LZ4 | Compression::LZ4_RAW | Compression::LZO => 256,
        Compression::GZIP(_) => 1100,
        // A block of one repeated byte is 128 kB from four bytes.
        _ => 40_000,
    };
    packed.saturating_mul(factor).saturating_add(SMALL_BYTES)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    Values,
    Dictionary,
    Other,
}

/// What the header of a Parquet page says of its size.
struct PageHeader {
    /// Of the header itself.
    bytes: u64,
    packed: u64,
    unpacked: u64,
    kind: Page,
    values: u64,
}

fn page_header(file: &mut File, at: u64, end: u64) -> Result<PageHeader, String> {
    for limit in HEADER_BYTES {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(at)).map_err(said)?;
        file.by_ref().take(limit.min(end - at)).read_to_end(&mut bytes).map_err(said)?;
        let read = Compact { bytes: &bytes, at: 0 }.page_header();
        if let Some(header) = read {
            return Ok(header);
        }
    }
    Err("the header of a page is damaged".to_owned())
}

/// A reader of Thrift's compact protocol, for the few numbers of a page's header.
struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// How deep structs may lie in a header; that of a page has three levels.
const THRIFT_DEPTH_MAX: usize = 16;

impl Compact<'_> {
    fn page_header(mut self) -> Option<PageHeader> {
        let mut header = PageHeader { bytes: 0, packed: 0, unpacked: 0, kind: Page::Other, values: 0 };
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (2, 5) => header.unpacked = u64::try_from(self.signed()?).ok()?,
                (3, 5) => header.packed = u64::try_from(self.signed()?).ok()?,
                (5 | 8, 12) => {
                    (header.kind, header.values) = (Page::Values, self.first_number()?);
                }
                (7, 12) => (header.kind, header.values) = (Page::Dictionary, self.first_number()?),
                _ => self.skip(kind, 0)?,
            }
        }
        header.bytes = self.at as u64;
        Some(header)
    }

    /// The field 1 of a struct, which is read to its end.
    fn first_number(&mut self) -> Option<u64> {
        let (mut id, mut number) = (0, None);
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (1, 5) => number = u64::try_from(self.signed()?).ok(),
                _ => self.skip(kind, 0)?,
            }
        }
        number
    }

    /// The type of the next field, whose number is left in `id`; `Some(None)` at the end of a struct.
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let head = self.byte()?;
        if head == 0 {
            return Some(None);
        }
        *id = match head >> 4 {
            0 => self.signed()?,
            step => id.wrapping_add(i64::from(step)),
        };
        Some(Some(head & 15))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > THRIFT_DEPTH_MAX {
            return None;
        }
        match kind {
            1 | 2 => Some(()),
            3 => self.pass(1),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => {
                let length = self.varint()?;
                self.pass(length)
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                (0..count).try_for_each(|_| self.skip_item(head & 15, depth))
            }
            12 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    /// An item of a list takes at least a byte, so that no claimed count goes on behind the end.
    fn skip_item(&mut self, kind: u8, depth: usize) -> Option<()> {
        if matches!(kind, 1 | 2) { self.pass(1) } else { self.skip(kind, depth + 1) }
    }

    fn signed(&mut self) -> Option<i64> {
        let word = self.varint()?;
        Some((word >> 1) as i64 ^ -((word & 1) as i64))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut word = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            word |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Some(word);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    fn pass(&mut self, bytes: u64) -> Option<()> {
        let at = self.at.checked_add(usize::try_from(bytes).ok()?)?;
        self.at = at;
        (at <= self.bytes.len()).then_some(())
    }
}

/// Holds the messages of an Arrow file or stream against its size.
pub(super) fn check_arrow(file: &mut File, has_footer: bool) -> Result<(), String> {
    let bytes = file.metadata().map_err(said)?.len();
    if !has_footer {
        let mut at = 0;
        while let Some(next) = check_message(file, at, bytes)? {
            at = next;
        }
        return Ok(());
    }
    // The length of the footer and the magic number again.
    let tail = read_at(file, bytes.saturating_sub(10), 10)?;
    let length = i32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    let length = u64::try_from(length).map_err(|_| "its footer has a negative length".to_owned())?;
    let start = bytes.checked_sub(10 + length).ok_or("its footer is longer than the file")?;
    let footer = read_at(file, start, length)?;
    let footer = root_as_footer(&footer).map_err(|error| format!("its footer is damaged: {error}"))?;
    let blocks =
        footer.dictionaries().into_iter().flatten().chain(footer.recordBatches().into_iter().flatten());
    for block in blocks {
        let at =
            u64::try_from(block.offset()).map_err(|_| "a batch claims to lie before the file".to_owned())?;
        let metadata = u64::try_from(block.metaDataLength()).unwrap_or(u64::MAX);
        let body = u64::try_from(block.bodyLength()).unwrap_or(u64::MAX);
        let end = at.checked_add(metadata).and_then(|end| end.checked_add(body));
        if end.is_none_or(|end| end > bytes) {
            return Err(format!("a batch claims bytes outside of the file's {bytes}"));
        }
        check_message(file, at, bytes)?;
    }
    Ok(())
}

fn read_at(file: &mut File, at: u64, count: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(at)).map_err(said)?;
    file.by_ref().take(count).read_to_end(&mut bytes).map_err(said)?;
    match bytes.len() as u64 == count {
        true => Ok(bytes),
        false => Err(format!("it ends within {count} bytes at byte {at}")),
    }
}

/// Looks at the message that begins here and gives the place behind its body; `None` where no message begins.
fn check_message(file: &mut File, at: u64, bytes: u64) -> Result<Option<u64>, String> {
    let number = |bytes: &[u8]| i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    if at + 4 > bytes {
        return Ok(None);
    }
    let (mut length, mut start) = (number(&read_at(file, at, 4)?), at + 4);
    if length == -1 {
        (length, start) = (number(&read_at(file, start, 4)?), start + 4);
    }
    let length =
        u64::try_from(length).map_err(|_| format!("a message at byte {at} has a negative length"))?;
    if length == 0 {
        return Ok(None);
    }
    if length > METADATA_BYTES_MAX || start + length > bytes {
        return Err(format!("a message at byte {at} claims {length} bytes, which the file does not have"));
    }
    let head = read_at(file, start, length)?;
    let message =
        root_as_message(&head).map_err(|error| format!("a message at byte {at} is damaged: {error}"))?;
    let body = start + length;
    let size = u64::try_from(message.bodyLength()).ok();
    let end = size.and_then(|size| body.checked_add(size)).filter(|end| *end <= bytes);
    let Some(end) = end else {
        let claimed = message.bodyLength();
        return Err(format!("a message at byte {at} claims {claimed} bytes, which the file does not have"));
    };
    if let Some(batch) = batch_of(&message) {
        check_batch(file, &batch, body, end - body)
            .map_err(|reason| format!("a batch at byte {at} {reason}"))?;
    }
    Ok(Some(end))
}

fn batch_of<'a>(message: &Message<'a>) -> Option<RecordBatch<'a>> {
    let dictionary = || message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
    message.header_as_record_batch().or_else(dictionary)
}

/// Holds the rows and buffers of a batch against the bytes of its body.
fn check_batch(file: &mut File, batch: &RecordBatch<'_>, start: u64, size: u64) -> Result<(), String> {
    let mut held = 0u64;
    for buffer in batch.buffers().into_iter().flatten() {
        let offset = u64::try_from(buffer.offset()).unwrap_or(u64::MAX);
        let length = u64::try_from(buffer.length()).unwrap_or(u64::MAX);
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err("claims a buffer outside of its bytes".to_owned());
        }
        held = held.saturating_add(match batch.compression() {
            Some(codec) if length >= 8 => unpacked(file, &codec, start + offset, length)?,
            _ => length,
        });
    }
    // Each row has at least a bit in some buffer; without one nobody could want it.
    match u64::try_from(batch.length()) {
        Ok(rows) if rows <= held.saturating_mul(8) => Ok(()),
        _ => Err(format!("claims {} rows, but its buffers hold {held} bytes", batch.length())),
    }
}

/// What a buffer says that it is unpacked to.
fn unpacked(file: &mut File, codec: &BodyCompression<'_>, at: u64, length: u64) -> Result<u64, String> {
    let head = read_at(file, at, 8)?;
    let claimed = i64::from_le_bytes(head.try_into().expect("eight bytes were read"));
    // -1 stands before bytes that are not packed.
    if claimed == -1 {
        return Ok(length - 8);
    }
    let factor = if codec.codec() == CompressionType::LZ4_FRAME { Compression::LZ4 } else { zstd() };
    match u64::try_from(claimed) {
        Ok(claimed) if claimed <= unpacked_max(factor, length) => Ok(claimed),
        _ => Err(format!("has a buffer of {length} bytes that claims to be unpacked to {claimed}")),
    }
}

fn zstd() -> Compression {
    Compression::ZSTD(parquet::basic::ZstdLevel::default())
}
