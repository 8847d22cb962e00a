//! The inputs of the layers between the forward and the backward pass: the last one put aside is needed first.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use super::pool::BufferPool;
use crate::error::KernelError;
use crate::simd;
use crate::streambp::LayerInputs;

/// Numbers that are turned into bytes at a time: a call of the system for 256 KiB costs nothing beside copying them,
/// and the buffer stays in second-level cache.
const PIECE: usize = 1 << 16;
/// Names that are tried for a file. Only another process of the same number, in the moment before it takes its
/// file's name away, can have taken one.
const NAMES_MAX: usize = 100;

/// A stack of layer inputs.
pub(super) enum KeptInputs {
    Memory(Vec<Vec<f32>>),
    Bf16(Vec<Vec<u16>>),
    File(Spill),
}

impl KeptInputs {
    /// An empty stack.
    pub(super) fn new(place: &LayerInputs) -> Result<Self, KernelError> {
        Ok(match place {
            LayerInputs::Memory => Self::Memory(Vec::new()),
            LayerInputs::Bf16 => Self::Bf16(Vec::new()),
            LayerInputs::File(folder) => Self::File(Spill::new(folder)?),
        })
    }

    /// Puts one aside.
    pub(super) fn push(&mut self, input: &[f32], pool: &mut BufferPool) -> Result<(), KernelError> {
        match self {
            Self::Memory(inputs) => inputs.push(pool.copy(input)),
            Self::Bf16(inputs) => inputs.push(to_bf16(input)),
            Self::File(spill) => spill.write(input)?,
        }
        Ok(())
    }

    /// The last one that is there, of `len` numbers, into a buffer.
    pub(super) fn pop(
        &mut self,
        len: usize,
        to: &mut Vec<f32>,
        pool: &mut BufferPool,
    ) -> Result<(), KernelError> {
        const PUSHED: &str = "every input that is asked for was put aside";
        match self {
            Self::Memory(inputs) => pool.give(std::mem::replace(to, inputs.pop().expect(PUSHED))),
            Self::Bf16(inputs) => {
                to.resize(len, 0.0);
                from_bf16(&inputs.pop().expect(PUSHED), to);
            }
            Self::File(spill) => {
                to.resize(len, 0.0);
                spill.read(to)?;
            }
        }
        Ok(())
    }
}

/// Numbers in a file without a name. Plain reads and writes: what the system keeps of the file in its cache is not
/// this process's memory, and goes when others need it.
pub(super) struct Spill {
    file: File,
    /// For messages.
    folder: PathBuf,
    /// Bytes that are there and not read yet.
    end: u64,
}

impl Spill {
    fn new(folder: &Path) -> Result<Self, KernelError> {
        let file = nameless_file(folder).map_err(|error| KernelError::file(folder, error))?;
        Ok(Self { file, folder: folder.to_owned(), end: 0 })
    }

    /// Appends.
    fn write(&mut self, numbers: &[f32]) -> Result<(), KernelError> {
        let mut bytes = vec![0; 4 * PIECE.min(numbers.len())];
        for piece in numbers.chunks(PIECE) {
            let bytes = &mut bytes[..4 * piece.len()];
            for (to, number) in bytes.chunks_exact_mut(4).zip(piece) {
                to.copy_from_slice(&number.to_ne_bytes());
            }
            self.file.write_all(bytes).map_err(|error| KernelError::file(&self.folder, error))?;
            self.end += bytes.len() as u64;
        }
        Ok(())
    }

    /// The last numbers that were not read yet.
    fn read(&mut self, numbers: &mut [f32]) -> Result<(), KernelError> {
        let start = self.end - 4 * numbers.len() as u64;
        self.read_from(start, numbers).map_err(|error| KernelError::file(&self.folder, error))?;
        self.end = start;
        Ok(())
    }

    fn read_from(&mut self, start: u64, numbers: &mut [f32]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(start))?;
        let mut bytes = vec![0; 4 * PIECE.min(numbers.len())];
        for piece in numbers.chunks_mut(PIECE) {
            let bytes = &mut bytes[..4 * piece.len()];
            self.file.read_exact(bytes)?;
            for (number, from) in piece.iter_mut().zip(bytes.chunks_exact(4)) {
                *number = f32::from_ne_bytes([from[0], from[1], from[2], from[3]]);
            }
        }
        Ok(())
    }
}

/// A file that only its handle leads to.
fn nameless_file(folder: &Path) -> io::Result<File> {
    /// So that two passes of one process do not meet.
    static FILES: AtomicU64 = AtomicU64::new(0);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..NAMES_MAX {
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("longhaul-layer-inputs-{}-{number}", process::id()));
        match options.open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}

/// Rounds to bfloat16: to the nearest, and to the even one of two that are as near.
fn to_bf16(numbers: &[f32]) -> Vec<u16> {
    let mut rounded = vec![0; numbers.len()];
    simd::vectorized(
        #[inline(always)]
        || {
            for (to, number) in rounded.iter_mut().zip(numbers) {
                let bits = number.to_bits();
                let nearest = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
                // Rounding could make an infinity of what is no number; its quiet bit keeps it none.
                *to = if number.is_nan() { (bits >> 16) as u16 | 0x40 } else { nearest };
            }
        },
    );
    rounded
}

fn from_bf16(rounded: &[u16], numbers: &mut [f32]) {
    for (number, from) in numbers.iter_mut().zip(rounded) {
        *number = f32::from_bits(u32::from(*from) << 16);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BufferPool, KeptInputs, PIECE, Spill, from_bf16, to_bf16};
    use crate::error::KernelError;
    use crate::streambp::LayerInputs;

    fn rounded(number: f32) -> f32 {
        let mut back = [0.0];
        from_bf16(&to_bf16(&[number]), &mut back);
        back[0]
    }

    #[test]
    fn rounding_is_to_the_nearest_and_to_the_even_one_of_two() {
        let ulp = 2.0_f32.powi(-7);
        // Between 1 and 1 + ulp, and between 1 + ulp and 1 + 2 ulp.
        assert_eq!(rounded(1.0 + 0.5 * ulp), 1.0);
        assert_eq!(rounded(1.0 + 0.500_01 * ulp), 1.0 + ulp);
        assert_eq!(rounded(1.0 + 1.5 * ulp), 1.0 + 2.0 * ulp);
        assert_eq!(rounded(-(1.0 + 1.499 * ulp)), -(1.0 + ulp));
        assert_eq!((rounded(0.0).to_bits(), rounded(-0.0).to_bits()), (0, 1 << 31));
        assert_eq!(rounded(f32::MAX), f32::INFINITY);
        assert_eq!((rounded(f32::INFINITY), rounded(f32::NEG_INFINITY)), (f32::INFINITY, f32::NEG_INFINITY));
        assert!(
            rounded(f32::from_bits(0x7f80_0001)).is_nan() && rounded(f32::from_bits(0xffff_ffff)).is_nan()
        );
    }

    proptest! {
        #[test]
        fn nothing_nearer_has_eight_bits(size in 1e-30_f32..1e30, negative: bool) {
            let number = if negative { -size } else { size };
            let found = rounded(number);
            let [below, above] = [-1, 1].map(|by: i32| {
                f32::from_bits((found.to_bits() as i32 + (by << 16)) as u32)
            });
            let off = |other: f32| (f64::from(other) - f64::from(number)).abs();
            prop_assert_eq!(found.to_bits() & 0xffff, 0);
            prop_assert!(off(found) <= off(below) && off(found) <= off(above));
        }
    }

    #[test]
    fn the_last_one_comes_back_first() {
        let folder = tempfile::tempdir().unwrap();
        let len = 2 * PIECE + 17;
        let inputs: Vec<Vec<f32>> =
            (0..3).map(|i| (0..len).map(|k| ((k * 7 + i) % 251) as f32 - 125.0).collect()).collect();
        for place in [LayerInputs::Memory, LayerInputs::Bf16, LayerInputs::File(folder.path().to_owned())] {
            let mut kept = KeptInputs::new(&place).unwrap();
            let mut pool = BufferPool::default();
            inputs.iter().for_each(|input| kept.push(input, &mut pool).unwrap());
            let mut found = Vec::new();
            for expected in inputs.iter().rev() {
                kept.pop(len, &mut found, &mut pool).unwrap();
                // Whole numbers of up to eight bits lose nothing in bfloat16.
                assert!(found == *expected, "{place:?}");
            }
        }
    }

    /// `/dev/full` is a device that is always full.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_an_error_that_names_the_folder() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut kept = KeptInputs::File(Spill { file: full, folder: "/somewhere".into(), end: 0 });
        let error = kept.push(&[1.0; 10], &mut BufferPool::default()).unwrap_err();
        let KernelError::File { path, source } = &error else { panic!("{error}") };
        assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(path, std::path::Path::new("/somewhere"));
    }
}
