//! The journal: every segment as it ends, appended to a file, so that a process that is killed loses nothing
//! but the segments it was in the middle of. A run that goes on from a checkpoint finds what was drawn
//! after it here and does not draw it again.
//!
//! A file begins with a line that says its form. A record is its length and its CRC-32, four bytes each, little-endian,
//! and an [`Entry`] in postcard's format. The first record that is cut off or damaged ends the file: what follows is
//! not read, and is cut off before more is appended. A file of another form is refused and stays as it is.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trajectory::{Finish, Segment, Trajectory};

use crate::error::RolloutError;
use crate::faults;

/// One segment with its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The group of its trajectory.
    pub group: u64,
    /// The member of the group.
    pub member: u32,
    /// Its place among the trajectory's segments.
    pub index: u32,
    /// Why the trajectory ended with it, if it did.
    pub finish: Option<Finish>,
    /// The version and the tokens.
    pub segment: Segment,
}

/// An [`Entry`] that is written and not kept, so that no token is copied for it.
#[derive(Serialize)]
struct EntryRef<'a> {
    group: u64,
    member: u32,
    index: u32,
    finish: Option<Finish>,
    segment: &'a Segment,
}

/// Journals of one run: a file for the time after each checkpoint, named by the checkpoint's step.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    /// Absent after a write that failed, until the next checkpoint begins another file: what follows a torn
    /// record could not be read.
    file: Option<(PathBuf, File)>,
    replayed: HashMap<(u64, u32, u32), Segment>,
    /// Segments under newer weights than these are not replayed.
    trusted_version: u64,
}

impl Journal {
    /// Reads the journals of `folder` after the checkpoint of `step`, whose weights are `step`'s, and
    /// removes older ones. `trusted_version` is the newest version whose segments may be used again:
    /// `u64::MAX` where the same seed gives the same weights again.
    ///
    /// # Errors
    /// If the folder cannot be made, a journal cannot be read or opened, or one is of another form.
    pub fn open(folder: &Path, step: u64, trusted_version: u64) -> Result<Self, RolloutError> {
        fs::create_dir_all(folder).map_err(|error| RolloutError::file(folder, error))?;
        let mut replayed = HashMap::new();
        for (_, path) in journals(folder)?.into_iter().filter(|(since, _)| *since >= step) {
            for entry in read(&path)?.0 {
                replayed.insert((entry.group, entry.member, entry.index), entry.segment);
            }
        }
        let mut journal = Self { folder: folder.to_path_buf(), file: None, replayed, trusted_version };
        let path = journal.path(step);
        let whole = if path.exists() { read(&path)?.1 } else { 0 };
        let begin = || {
            let mut file = File::options().create(true).append(true).open(&path)?;
            file.set_len(whole)?;
            if whole == 0 {
                file.write_all(first_line().as_bytes())?;
            }
            Ok(file)
        };
        let file = begin().map_err(|error| RolloutError::file(&path, error))?;
        journal.file = Some((path, file));
        Ok(journal)
    }

    /// Appends the last segment of a trajectory.
    ///
    /// A disk that refuses is told of once and ends this file: the run goes on and would draw again what the
    /// journal lacks.
    pub(crate) fn append(&mut self, trajectory: &Trajectory, finish: Option<Finish>) {
        let Some((path, file)) = &mut self.file else { return };
        let entry = EntryRef {
            group: trajectory.group,
            member: trajectory.member,
            index: trajectory.segment_count() as u32 - 1,
            finish,
            segment: trajectory.last_segment().expect("a segment has ended"),
        };
        let written = faults::pass(faults::Point::Journal).and_then(|()| file.write_all(&record(&entry)));
        if let Err(error) = written {
            tracing::warn!(
                "{}: {error}; segments are not written down until the next checkpoint",
                path.display()
            );
            self.file = None;
        }
    }

    /// The segment that comes next in a trajectory, if it was drawn before the restart under weights
    /// that are not newer than `newest`.
    pub(crate) fn replay_from_journal(&mut self, trajectory: &Trajectory, newest: u64) -> Option<Segment> {
        let key = (trajectory.group, trajectory.member, trajectory.segment_count() as u32);
        let oldest = trajectory.last_segment().map_or(0, |segment| segment.version);
        let segment = self.replayed.remove(&key)?;
        let fits = (oldest..=newest.min(self.trusted_version)).contains(&segment.version);
        fits.then_some(segment)
    }

    /// The rest of a trajectory's open segment, if it was drawn before the restart.
    pub(crate) fn replay_open(&mut self, trajectory: &Trajectory) -> Option<Segment> {
        let open = trajectory.last_segment()?;
        let key = (trajectory.group, trajectory.member, trajectory.segment_count() as u32 - 1);
        let segment = self.replayed.remove(&key)?;
        let fits = segment.version == open.version && segment.tokens.starts_with(&open.tokens);
        fits.then_some(segment)
    }

    /// Begins the file of the time after the checkpoint of `step`. Where that is the file which is being written, it
    /// goes on: the checkpoint may not come to be, and the one of that name before it needs what is there.
    pub(crate) fn begin(&mut self, step: u64) {
        let path = self.path(step);
        if self.file.as_ref().is_some_and(|(open, _)| *open == path) {
            return;
        }
        let file = File::create(&path).and_then(|mut file| {
            file.write_all(first_line().as_bytes())?;
            Ok(file)
        });
        match file {
            Ok(file) => self.file = Some((path, file)),
            Err(error) => {
                tracing::warn!("{}: {error}; segments are not written down", path.display());
                self.file = None;
            }
        }
    }

    /// Removes the files of the time before the checkpoint of `step`.
    ///
    /// # Errors
    /// If one cannot be listed or removed.
    pub fn prune(folder: &Path, step: u64) -> Result<(), RolloutError> {
        for (_, path) in journals(folder)?.into_iter().filter(|(since, _)| *since < step) {
            fs::remove_file(&path).map_err(|error| RolloutError::file(&path, error))?;
        }
        Ok(())
    }

    fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{step:06}{SUFFIX}"))
    }
}

const PREFIX: &str = "after-step-";
const SUFFIX: &str = ".segments";

/// Begins a file, before the number of the form of its records.
const MAGIC: &str = "longhaul journal ";
/// The form that is written and read; it rises with every change of [`Entry`] and of what is in it. Files of earlier
/// versions have no first line; their records are read where they are as in form 1.
const FORM: u32 = 1;

fn first_line() -> String {
    format!("{MAGIC}{FORM}\n")
}

/// The journals of a folder with their steps, oldest first.
fn journals(folder: &Path) -> Result<Vec<(u64, PathBuf)>, RolloutError> {
    let failed = |error| RolloutError::file(folder, error);
    let mut found = Vec::new();
    if !folder.exists() {
        return Ok(found);
    }
    for file in fs::read_dir(folder).map_err(failed)? {
        let path = file.map_err(failed)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let step = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
        if let Some(step) = step.and_then(|step| step.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn record(entry: &EntryRef<'_>) -> Vec<u8> {
    let body = postcard::to_stdvec(entry).expect("plain values in memory can be written");
    let mut record = Vec::with_capacity(RECORD_HEAD + body.len());
    record.extend((body.len() as u32).to_le_bytes());
    record.extend(crc32fast::hash(&body).to_le_bytes());
    record.extend(body);
    record
}

/// The entries of a file, and the number of its bytes that hold them and the first line.
///
/// # Errors
/// If the file cannot be read, or is not of the form that this version writes.
pub(crate) fn read(path: &Path) -> Result<(Vec<Entry>, u64), RolloutError> {
    let bytes = fs::read(path).map_err(|error| RolloutError::file(path, error))?;
    let start = records_start(path, &bytes)?;
    let (mut entries, mut whole) = (Vec::new(), start);
    while let Some(body) = first_record(&bytes[whole..]) {
        // Its checksum is right, so it was written whole: by a version whose entries are others.
        entries.push(entry(body).ok_or_else(|| other_form(path, "with no readable form"))?);
        whole += RECORD_HEAD + body.len();
    }
    let begun = first_line().as_bytes().starts_with(&bytes);
    if start == 0 && entries.is_empty() && !begun {
        return Err(other_form(path, "without a form"));
    }
    if whole < bytes.len() {
        let cut = bytes.len() - whole;
        tracing::warn!("{}: the last {cut} bytes are an unfinished segment and are not used", path.display());
    }
    Ok((entries, whole as u64))
}

/// Where the records of a file begin: behind its first line, or with its first byte where it has none.
fn records_start(path: &Path, bytes: &[u8]) -> Result<usize, RolloutError> {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let form = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix(MAGIC));
    match form {
        None => Ok(0),
        // A kill came before the line was whole.
        Some(_) if line.len() == bytes.len() && first_line().as_bytes().starts_with(bytes) => Ok(0),
        Some(form) if form == FORM.to_string() => Ok(line.len() + 1),
        Some(form) => Err(other_form(path, &format!("of form {form}"))),
    }
}

fn other_form(path: &Path, found: &str) -> RolloutError {
    let reason = format!(
        "is a journal {found}, and this longhaul reads form {FORM}: resume the run with the longhaul that wrote it, or \
         remove the file, and what was drawn since the checkpoint is drawn again"
    );
    RolloutError::content(path, reason)
}

/// Bytes of a record before its entry: length and checksum.
const RECORD_HEAD: usize = 8;

/// The entry's bytes of the first record, if it is whole. A record of nothing is none: a file whose end was never written
/// holds zeros.
fn first_record(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let body = rest.get(..length).filter(|body| !body.is_empty())?;
    (crc32fast::hash(body) == u32::from_le_bytes(*sum)).then_some(body)
}

/// An entry that takes all of the bytes.
fn entry(body: &[u8]) -> Option<Entry> {
    let (entry, rest) = postcard::take_from_bytes(body).ok()?;
    rest.is_empty().then_some(entry)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert_eq, proptest};

    use super::*;
    use trajectory::{OutputLimits, Token};

    use crate::testing::prompt;

    const LIMITS: OutputLimits = OutputLimits { segment_tokens_max: 2, output_tokens_max: 8 };

    /// A trajectory of full segments under these versions.
    fn trajectory(group: u64, versions: &[u64]) -> Trajectory {
        let mut trajectory = Trajectory::new(prompt(group), group, 1);
        for version in versions {
            trajectory.start_segment(*version, LIMITS);
            for id in 0..2 {
                trajectory.push(Token { id, logprob: -0.1 / (group + 1) as f32 }, None, LIMITS);
            }
        }
        trajectory
    }

    fn open(folder: &Path, step: u64, trusted: u64) -> Journal {
        Journal::open(folder, step, trusted).expect("a folder that can be written")
    }

    #[test]
    fn a_segment_is_recalled_where_it_fits_and_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = open(folder.path(), 3, u64::MAX);
        for versions in [&[3][..], &[3, 4], &[3, 4, 6]] {
            journal.append(&trajectory(7, versions), None);
        }
        let whole: Vec<Segment> = trajectory(7, &[3, 4, 6]).segments().cloned().collect();
        let mut again = open(folder.path(), 3, u64::MAX);
        assert_eq!(again.replay_from_journal(&trajectory(7, &[]), 3).as_ref(), Some(&whole[0]));
        assert_eq!(again.replay_from_journal(&trajectory(7, &[]), 3), None, "it was given");
        assert_eq!(again.replay_from_journal(&trajectory(7, &[3]), 3), None, "version 4 is not there yet");
        let mut untrusted = open(folder.path(), 3, 5);
        assert_eq!(untrusted.replay_from_journal(&trajectory(7, &[3]), 9).as_ref(), Some(&whole[1]));
        assert_eq!(
            untrusted.replay_from_journal(&trajectory(7, &[3, 4]), 9),
            None,
            "version 6 came out otherwise"
        );
        let mut half = trajectory(7, &[3, 4]);
        half.open_segment().tokens.pop();
        assert_eq!(open(folder.path(), 3, 9).replay_open(&half).as_ref(), Some(&whole[1]));
        half.open_segment().tokens[0].id += 1;
        assert_eq!(open(folder.path(), 3, 9).replay_open(&half), None, "another beginning");
    }

    #[test]
    fn a_checkpoint_begins_a_file_and_older_ones_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = open(folder.path(), 0, u64::MAX);
        journal.append(&trajectory(1, &[0]), None);
        journal.begin(5);
        journal.append(&trajectory(2, &[5]), Some(Finish::Eos));
        assert!(open(folder.path(), 0, 9).replay_from_journal(&trajectory(1, &[]), 9).is_some());
        assert!(open(folder.path(), 0, 9).replay_from_journal(&trajectory(2, &[]), 9).is_some());
        assert!(open(folder.path(), 5, 9).replay_from_journal(&trajectory(1, &[]), 9).is_none());
        journal.begin(5);
        let kept = open(folder.path(), 5, 9).replay_from_journal(&trajectory(2, &[]), 9);
        assert!(kept.is_some(), "the checkpoint before of that name needs what came after it");
        Journal::prune(folder.path(), 5).expect("a folder that can be read");
        let left: Vec<u64> =
            journals(folder.path()).expect("it can").into_iter().map(|(step, _)| step).collect();
        assert_eq!(left, [5]);
    }

    /// A record of form 1, byte by byte. Another layout is another form: raise [`FORM`] with it.
    const RECORD_OF_FORM_1: [u8; 20] =
        [12, 0, 0, 0, 0xb3, 0xdf, 0xab, 0xd5, 7, 1, 0, 0, 3, 1, 5, 0, 0, 0, 0xbf, 0];

    fn entry_of_form_1() -> Entry {
        let tokens = vec![Token { id: 5, logprob: -0.5 }];
        let segment = Segment { version: 3, tokens, drawn_at: None };
        Entry { group: 7, member: 1, index: 0, finish: None, segment }
    }

    #[test]
    fn the_layout_of_a_record_is_that_of_the_form() {
        let Entry { group, member, index, finish, segment } = &entry_of_form_1();
        let written =
            record(&EntryRef { group: *group, member: *member, index: *index, finish: *finish, segment });
        assert_eq!((written.as_slice(), FORM), (&RECORD_OF_FORM_1[..], 1));
    }

    #[test]
    fn a_journal_without_a_form_is_read_where_it_can_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = open(folder.path(), 3, u64::MAX).path(3);
        assert_eq!(fs::read(&path).expect("a file"), first_line().as_bytes());
        fs::write(&path, RECORD_OF_FORM_1).expect("a file");
        assert_eq!(read(&path).expect("it is as in form 1"), (vec![entry_of_form_1()], 20));
        // More is appended to it.
        open(folder.path(), 3, u64::MAX).append(&trajectory(8, &[3]), None);
        assert_eq!(read(&path).expect("it is as in form 1").0.len(), 2);
    }

    #[test]
    fn a_journal_of_another_form_is_refused_and_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = open(folder.path(), 3, u64::MAX).path(3);
        // Entries of some version that had less in them, or more.
        let framed = |body: &[u8]| {
            let (length, sum) = ((body.len() as u32).to_le_bytes(), crc32fast::hash(body).to_le_bytes());
            [&length[..], &sum, body].concat()
        };
        let entry = &RECORD_OF_FORM_1[RECORD_HEAD..];
        let (less, more) = (framed(&entry[..entry.len() - 1]), framed(&[entry, &[1]].concat()));
        let with_line = [first_line().as_bytes(), &more].concat();
        let later = format!("{MAGIC}2\n").into_bytes();
        for (bytes, found) in [
            (&less[..], "with no readable form"),
            (&more, "with no readable form"),
            (&with_line, "with no readable form"),
            (&later, "of form 2"),
            (b"anything else", "without a form"),
        ] {
            fs::write(&path, bytes).expect("a file");
            let refused = Journal::open(folder.path(), 3, u64::MAX).expect_err("another form").to_string();
            assert!(refused.contains(found) && refused.contains("reads form 1"), "{refused}");
            assert!(refused.contains("after-step-000003.segments"), "{refused}");
            assert_eq!(fs::read(&path).expect("a file"), bytes, "nothing is cut off");
        }
    }

    #[test]
    fn a_file_whose_end_was_never_written_ends_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = open(folder.path(), 3, u64::MAX).path(3);
        let line = first_line();
        fs::write(&path, [line.as_bytes(), &RECORD_OF_FORM_1, &[0; 9]].concat()).expect("a file");
        let whole = (line.len() + RECORD_OF_FORM_1.len()) as u64;
        assert_eq!(read(&path).expect("a journal"), (vec![entry_of_form_1()], whole));
        // A kill in the first line.
        fs::write(&path, &line[..line.len() - 2]).expect("a file");
        open(folder.path(), 3, u64::MAX);
        assert_eq!(fs::read(&path).expect("a file"), line.as_bytes());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn what_is_torn_is_cut_off_and_the_rest_is_read(
            at in any::<prop::sample::Index>(),
            flip in 0..=255_u8,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let mut journal = open(folder.path(), 0, u64::MAX);
            let trajectories: Vec<Trajectory> = (0..5).map(|group| trajectory(group, &[1])).collect();
            let path = journal.path(0);
            let line = first_line().len();
            let mut ends = vec![line];
            for trajectory in &trajectories {
                journal.append(trajectory, None);
                ends.push(fs::metadata(&path).expect("a file").len() as usize);
            }
            let mut bytes = fs::read(&path).expect("a file");
            let at = line + at.index(bytes.len() - line);
            // Cut off where nothing is flipped.
            if flip == 0 { bytes.truncate(at) } else { bytes[at] ^= flip }
            fs::write(&path, bytes).expect("a file");
            let whole = ends.iter().filter(|end| **end <= at).count() - 1;
            let mut again = open(folder.path(), 0, u64::MAX);
            again.append(&trajectory(9, &[1]), None);
            let mut third = open(folder.path(), 0, u64::MAX);
            for (group, trajectory_of_group) in trajectories.iter().enumerate() {
                let expected = (group < whole).then(|| trajectory_of_group.last_segment().expect("one").clone());
                prop_assert_eq!(third.replay_from_journal(&trajectory(group as u64, &[]), 9), expected);
            }
            prop_assert_eq!(third.replay_from_journal(&trajectory(9, &[]), 9), Some(trajectory(9, &[1]).last_segment().expect("one").clone()));
        }
    }
}
