//! Files of columns written here and read again; then 200 damaged ones.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::builder::{
    Decimal128Builder, FixedSizeBinaryBuilder, Int32Builder, ListBuilder, MapBuilder, StringBuilder,
    StringDictionaryBuilder, StructBuilder,
};
use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, DurationSecondArray, Float32Array, Float64Array,
    Int64Array, ListArray, RecordBatch, StringArray, StringViewArray, StructArray, TimestampMicrosecondArray,
    UInt64Array,
};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;

use super::*;
use crate::prompt::config::RowFormat;
use crate::prompt::file::RowFile;

/// A batch of these columns.
fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .expect("columns of one length")
}

/// Rows as data sets have them: conversations, an answer inside an object, numbers.
fn rows(count: usize) -> RecordBatch {
    let texts = |prefix: &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..count).map(|row| format!("{prefix}{row}"))))
    };
    let truth = StructArray::from(vec![
        (Arc::new(Field::new("ground_truth", DataType::Utf8, true)), texts("truth ")),
        (Arc::new(Field::new("style", DataType::Utf8, true)), texts("style ")),
    ]);
    let levels: ArrayRef =
        Arc::new(Int64Array::from_iter((0..count).map(|row| (row % 3 > 0).then_some(row as i64))));
    batch(vec![("question", texts("what is ")), ("level", levels), ("reward_model", Arc::new(truth))])
}

/// One message a row: a list of objects.
fn messages(count: usize) -> ArrayRef {
    let fields = ["role", "content"].map(|name| Field::new(name, DataType::Utf8, true));
    let mut turns = ListBuilder::new(StructBuilder::from_fields(fields.to_vec(), count));
    for row in 0..count {
        for (place, prefix) in ["user", "hello "].into_iter().enumerate() {
            let texts = turns.values().field_builder::<StringBuilder>(place).expect("a column of texts");
            texts.append_value(format!("{prefix}{row}"));
        }
        turns.values().append(true);
        turns.append(true);
    }
    Arc::new(turns.finish())
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn parquet(&self, name: &str, batch: &RecordBatch, compression: Compression) -> PathBuf {
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_max_row_group_row_count(Some(7))
            .build();
        let file = File::create(self.path(name)).expect("a file");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a writer");
        writer.write(batch).expect("a batch");
        writer.close().expect("a footer");
        self.path(name)
    }

    fn arrow(&self, name: &str, batch: &RecordBatch, compression: Option<CompressionType>) -> PathBuf {
        let options = IpcWriteOptions::default().try_with_compression(compression).expect("a codec");
        let file = File::create(self.path(name)).expect("a file");
        let mut writer = FileWriter::try_new_with_options(file, &batch.schema(), options).expect("a writer");
        writer.write(batch).expect("a batch");
        writer.write(batch).expect("a batch");
        writer.finish().expect("a footer");
        self.path(name)
    }

    fn stream(&self, name: &str, batch: &RecordBatch) -> PathBuf {
        let file = File::create(self.path(name)).expect("a file");
        let mut writer = StreamWriter::try_new(file, &batch.schema()).expect("a writer");
        writer.write(batch).expect("a batch");
        writer.finish().expect("an end");
        self.path(name)
    }
}

/// The rows of a file as JSON, or the first error.
fn read(path: &Path) -> Result<Vec<String>, String> {
    let mut file = RowFile::open(path).map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    while let Some(line) = file.next_row().map_err(|error| error.to_string())? {
        assert_eq!(line.number, rows.len() + 1);
        let place = line.place(path);
        rows.push(line.text.map_err(|refusal| format!("{place}: {refusal}"))?);
    }
    Ok(rows)
}

#[test]
fn rows_of_every_format_and_codec_are_the_same() {
    let place = Place::new();
    let batch = rows(20);
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let gzip = Compression::GZIP(Default::default());
    let expected = read(&place.parquet("plain.parquet", &batch, Compression::UNCOMPRESSED)).expect("rows");
    assert_eq!(expected.len(), 20);
    let first = r#"{"question":"what is 0","level":null,"reward_model":{"ground_truth":"truth 0","style":"style 0"}}"#;
    assert_eq!(expected[0], first);
    assert!(expected[17].contains(r#""level":17,"#), "{}", expected[17]);
    for (name, codec) in [("s", Compression::SNAPPY), ("z", zstd), ("g", gzip), ("l", Compression::LZ4_RAW)] {
        let path = place.parquet(&format!("{name}.parquet"), &batch, codec);
        assert_eq!(read(&path).expect(name), expected, "{name}");
    }
    for (name, codec) in
        [("n", None), ("l", Some(CompressionType::LZ4_FRAME)), ("z", Some(CompressionType::ZSTD))]
    {
        let path = place.arrow(&format!("{name}.arrow"), &batch, codec);
        assert_eq!(read(&path).expect(name), [&expected[..], &expected].concat(), "{name}");
    }
    assert_eq!(read(&place.stream("stream.arrow", &batch)).expect("a stream"), expected);
}

#[test]
fn conversations_and_nested_values_are_json() {
    let place = Place::new();
    let mut labels = StringDictionaryBuilder::<Int32Type>::new();
    labels.extend(["a", "b"].map(Some));
    let mut scores = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for row in 0..2 {
        scores.keys().append_value("x");
        scores.values().append_value(row);
        scores.append(true).expect("as many keys as values");
    }
    let mut lists = ListBuilder::new(StringBuilder::new());
    lists.append_value(["1", "2"].map(Some));
    lists.append_null();
    let batch = batch(vec![
        ("messages", messages(2)),
        ("label", Arc::new(labels.finish())),
        ("scores", Arc::new(scores.finish())),
        ("answers", Arc::new(lists.finish())),
        ("view", Arc::new(StringViewArray::from(vec!["short", "a text that does not fit into a view"]))),
    ]);
    let expected = [
        r#"{"messages":[{"role":"user0","content":"hello 0"}],"label":"a","scores":{"x":0},"answers":["1","2"],"view":"short"}"#,
        r#"{"messages":[{"role":"user1","content":"hello 1"}],"label":"b","scores":{"x":1},"answers":null,"view":"a text that does not fit into a view"}"#,
    ];
    assert_eq!(read(&place.stream("a.arrow", &batch)).expect("rows"), expected);
    assert_eq!(read(&place.parquet("a.parquet", &batch, Compression::SNAPPY)).expect("rows"), expected);
}

#[test]
fn numbers_days_and_bytes_have_a_form_that_is_written_down() {
    let place = Place::new();
    let decimals = Decimal128Array::of(&[1250, -5]);
    let batch = batch(vec![
        ("flag", Arc::new(BooleanArray::from(vec![true, false]))),
        ("big", Arc::new(UInt64Array::from(vec![u64::MAX, 0]))),
        ("short", Arc::new(Float32Array::from(vec![0.1, 1.0]))),
        ("long", Arc::new(Float64Array::from(vec![1e21, -0.5]))),
        ("price", decimals),
        ("day", Arc::new(Date32Array::from(vec![0, 19_930]))),
        ("moment", Arc::new(TimestampMicrosecondArray::from(vec![1_500_000, 0]).with_timezone("UTC"))),
        ("text", Arc::new(BinaryArray::from(vec![b"abc".as_slice(), b""]))),
    ]);
    let expected = [
        r#"{"flag":true,"big":18446744073709551615,"short":0.1,"long":1e21,"price":12.50,"day":"1970-01-01","moment":"1970-01-01T00:00:01.500Z","text":"abc"}"#,
        r#"{"flag":false,"big":0,"short":1.0,"long":-0.5,"price":-0.05,"day":"2024-07-26","moment":"1970-01-01T00:00:00Z","text":""}"#,
    ];
    for path in [place.stream("a.arrow", &batch), place.parquet("a.parquet", &batch, Compression::SNAPPY)] {
        assert_eq!(read(&path).expect("rows"), expected, "{}", path.display());
    }
}

/// Numbers with two digits behind the point.
struct Decimal128Array;

impl Decimal128Array {
    fn of(hundredths: &[i128]) -> ArrayRef {
        let mut numbers = Decimal128Builder::new().with_precision_and_scale(9, 2).expect("nine digits");
        hundredths.iter().for_each(|number| numbers.append_value(*number));
        Arc::new(numbers.finish())
    }
}

#[test]
fn what_has_no_form_is_refused_by_its_name() {
    let place = Place::new();
    let refused = |name: &str, column: ArrayRef| {
        let batch = batch(vec![("question", Arc::new(StringArray::from(vec!["a"]))), ("odd", column)]);
        read(&place.stream(name, &batch)).expect_err(name)
    };
    let error = refused("a.arrow", Arc::new(DurationSecondArray::from(vec![1])));
    assert!(
        error.contains("the field `odd` has the type Duration") && error.contains("leave the column out"),
        "{error}"
    );
    let mut bytes = FixedSizeBinaryBuilder::new(2);
    bytes.append_value([0xff, 0xfe]).expect("two bytes");
    let error = refused("b.arrow", Arc::new(bytes.finish()));
    assert!(error.contains("b.arrow:row 1: `odd` holds bytes that are no UTF-8 text"), "{error}");
    let numbers =
        ListArray::from_iter_primitive::<Float32Type, _, _>([Some(vec![Some(1.0), Some(f32::NAN)])]);
    let error = refused("c.arrow", Arc::new(numbers));
    assert!(error.contains("c.arrow:row 1: `odd[1]` is NaN"), "{error}");
}

#[test]
fn the_format_is_that_of_the_name_or_of_the_config() {
    let place = Place::new();
    let parquet = place.parquet("rows.parquet", &rows(3), Compression::SNAPPY);
    let other = place.path("rows.data");
    fs::copy(&parquet, &other).expect("a copy");
    assert!(read(&other).expect_err("no ending").contains("data.format = \"parquet\""));
    let mut file = RowFile::open_as(&other, Some(RowFormat::Parquet)).expect("a format");
    assert_eq!(
        file.next_row().expect("a row").map(|line| line.place(&other)),
        Some(format!("{}:row 1", other.display()))
    );
    let named = place.path("rows.arrow");
    fs::copy(&parquet, &named).expect("a copy");
    assert!(read(&named).expect_err("another format").contains("does not begin as an Arrow file"));
    let lines = place.path("lines.parquet");
    fs::write(&lines, "{}\n").expect("a file");
    assert!(read(&lines).expect_err("JSON").contains("does not begin as a Parquet file"));
}

/// Bytes changed by a fixed rule: a cut, a flipped byte, a run of one byte.
fn damaged(bytes: &[u8], case: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut random = trajectory::random::Random::new(case);
    match case % 4 {
        0 => bytes.truncate(random.below(bytes.len())),
        1 => (0..1 + random.below(4)).for_each(|_| {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }),
        2 => {
            let at = random.below(bytes.len());
            let end = (at + 1 + random.below(16)).min(bytes.len());
            bytes[at..end].fill([0x00, 0x7f, 0x80, 0xff][random.below(4)]);
        }
        // The footer decides over all else.
        _ => {
            let start = bytes.len().saturating_sub(600);
            let at = start + random.below(bytes.len() - start);
            bytes[at] = [0x00, 0x7f, 0x80, 0xfe, 0xff][random.below(5)];
        }
    }
    bytes
}

#[test]
fn damaged_files_are_errors_and_no_panics() {
    let place = Place::new();
    let batch = rows(40);
    let good = [
        place.parquet("snappy.parquet", &batch, Compression::SNAPPY),
        place.parquet("zstd.parquet", &batch, Compression::ZSTD(ZstdLevel::default())),
        place.arrow("lz4.arrow", &batch, Some(CompressionType::LZ4_FRAME)),
        place.arrow("plain.arrow", &batch, None),
        place.stream("stream.arrows", &batch),
    ];
    let mut refused = 0;
    for path in good {
        let bytes = fs::read(&path).expect("a file");
        for case in 0..80 {
            fs::write(&path, damaged(&bytes, case)).expect("a file");
            match read(&path) {
                // A byte of a text, or one that nothing reads.
                Ok(rows) => assert!(rows.len() <= 80, "{}: {} rows", path.display(), rows.len()),
                Err(error) => {
                    refused += 1;
                    assert!(error.contains(&path.display().to_string()), "{error}");
                }
            }
        }
    }
    assert!(refused >= 200, "{refused}");
}

#[test]
fn claims_are_held_against_the_file() {
    let place = Place::new();
    let batch = rows(3);
    let path = place.parquet("rows.parquet", &batch, Compression::SNAPPY);
    let whole = read(&path).expect("rows");
    assert_eq!(whole.len(), 3);
    // A footer of Thrift's compact protocol has 3 rows as the zigzag varint 6, behind the type of a 64-bit number.
    let bytes = fs::read(&path).expect("a file");
    let footer = bytes.len()
        - 8
        - u32::from_le_bytes(bytes[bytes.len() - 8..][..4].try_into().expect("four bytes")) as usize;
    let places: Vec<usize> =
        (footer..bytes.len() - 8).filter(|at| bytes[*at..].starts_with(&[0x16, 0x06])).collect();
    assert!(places.len() >= 2, "rows of the file and of the group: {places:?}");
    for at in places {
        // 2^40 rows in as many bytes as the number needs.
        let claimed =
            [&bytes[..=at], &[0x80, 0x80, 0x80, 0x80, 0x80, 0x40], &bytes[at + 2..bytes.len() - 8]].concat();
        let length = (claimed.len() - footer) as u32;
        fs::write(&path, [&claimed[..], &length.to_le_bytes(), b"PAR1"].concat()).expect("a file");
        match read(&path) {
            // The count of the whole file is not what is read by.
            Ok(rows) => assert_eq!(rows, whole),
            Err(error) => assert!(error.contains("rows.parquet"), "{error}"),
        }
    }
    // An Arrow message that claims a terabyte of body.
    let path = place.stream("rows.arrow", &batch);
    let bytes = fs::read(&path).expect("a file");
    let refused = (8..bytes.len() - 8).filter(|at| {
        let mut claimed = bytes.clone();
        claimed[at + 5] = 0x01;
        fs::write(&path, &claimed).expect("a file");
        read(&path).is_err_and(|error| error.contains("which the file does not have"))
    });
    assert!(refused.count() >= 1);
}
