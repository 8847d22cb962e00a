//! Files of columns, Parquet and Arrow IPC, as rows of JSON, so that everything behind is the code that reads JSON lines.
//! Row groups and batches are read one after the other. What a damaged file makes the readers do is held here: they may
//! panic, and they believe the sizes that it claims.

mod claims;
mod values;

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, Schema};
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};

use super::line::Line;
use crate::bad_rows::{RowProblem, RowUnit};
use crate::error::RolloutError;
use crate::guarded::guarded;

/// Rows of a Parquet file that are decoded at a time: with texts of 100 kB they are some 25 MB.
const BATCH_ROWS: usize = 256;

/// How a Parquet file begins and ends.
pub(super) const PARQUET_MAGIC: &[u8] = b"PAR1";
/// How an Arrow file begins.
pub(super) const ARROW_MAGIC: &[u8] = b"ARROW1";
/// How a stream of Arrow messages begins: the mark in front of its first message.
pub(super) const STREAM_MAGIC: &[u8] = &[0xff; 4];

/// The formats of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Columns {
    Parquet,
    Arrow,
}

/// A file of columns whose rows are read one after the other.
pub(super) struct ColumnFile {
    path: PathBuf,
    batches: Batches,
    /// The batch that rows are taken of, and the next of them.
    batch: Option<RecordBatch>,
    next: usize,
    /// Rows that were read so far.
    number: usize,
}

enum Batches {
    Parquet { reader: Box<ParquetRecordBatchReader>, rows: u64 },
    File(Box<FileReader<BufReader<File>>>),
    Stream(Box<StreamReader<BufReader<File>>>),
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl ColumnFile {
    /// Opens a file and looks at its schema.
    pub(super) fn open(path: &Path, columns: Columns) -> Result<Self, RolloutError> {
        let file = File::open(path).map_err(|error| RolloutError::file(path, error))?;
        let opened = guarded(|| {
            let (batches, schema) = match columns {
                Columns::Parquet => parquet(file)?,
                Columns::Arrow => arrow(file)?,
            };
            values::check_schema(&schema)?;
            Ok(batches)
        });
        let name = match columns {
            Columns::Parquet => "a Parquet file",
            Columns::Arrow => "an Arrow file",
        };
        let batches = opened
            .map_err(|reason| RolloutError::content(path, format!("cannot be read as {name}: {reason}")))?;
        Ok(Self { path: path.to_path_buf(), batches, batch: None, next: 0, number: 0 })
    }

    /// The next row; `None` behind the last one.
    pub(super) fn next_row(&mut self) -> Result<Option<Line>, RolloutError> {
        loop {
            if let Some(batch) = &self.batch
                && self.next < batch.num_rows()
            {
                let row = self.next;
                self.next += 1;
                self.number += 1;
                let text = guarded(|| Ok(values::row(batch, row))).and_then(|row| row);
                let text = text.map_err(|reason| RowProblem::Value.because(reason));
                return Ok(Some(Line { number: self.number, unit: RowUnit::Row, text }));
            }
            (self.batch, self.next) = (self.next_batch()?, 0);
            if self.batch.is_none() {
                return Ok(None);
            }
        }
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>, RolloutError> {
        let read = self.number as u64;
        let batch = guarded(|| {
            let next = |batch: Option<Result<RecordBatch, ArrowError>>| batch.transpose().map_err(said);
            match &mut self.batches {
                Batches::Parquet { reader, rows } => match next(reader.next())? {
                    None if read != *rows => Err(format!("its footer says {rows} rows, but it has {read}")),
                    batch => Ok(batch),
                },
                Batches::File(reader) => next(reader.next()),
                Batches::Stream(reader) => next(reader.next()),
            }
        });
        batch.map_err(|reason| {
            let place = format!("behind row {}", self.number);
            RolloutError::content(&self.path, format!("cannot be read {place}: {reason}"))
        })
    }
}

fn parquet(file: File) -> Result<(Batches, Schema), String> {
    let bytes = file.metadata().map_err(said)?.len();
    // Parquet's own types say what a column is; the schema that Arrow's writers put beside them is not needed.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let pages = file.try_clone().map_err(said)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map_err(said)?;
    let rows = claims::check_parquet(builder.metadata(), pages, bytes)?;
    let schema = builder.schema().as_ref().clone();
    let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(said)?;
    Ok((Batches::Parquet { reader: Box::new(reader), rows }, schema))
}

fn arrow(mut file: File) -> Result<(Batches, Schema), String> {
    let mut head = Vec::new();
    file.by_ref().take(ARROW_MAGIC.len() as u64).read_to_end(&mut head).map_err(said)?;
    claims::check_arrow(&mut file, head.starts_with(ARROW_MAGIC))?;
    file.seek(SeekFrom::Start(0)).map_err(said)?;
    if head.starts_with(ARROW_MAGIC) {
        let reader = FileReader::try_new_buffered(file, None).map_err(said)?;
        let schema = reader.schema().as_ref().clone();
        return Ok((Batches::File(Box::new(reader)), schema));
    }
    let reader = StreamReader::try_new_buffered(file, None).map_err(said)?;
    let schema = reader.schema().as_ref().clone();
    Ok((Batches::Stream(Box::new(reader)), schema))
}

#[cfg(test)]
mod tests;
