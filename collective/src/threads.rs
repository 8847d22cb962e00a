//! Ranks that are threads of one process: several devices of one machine, and tests of everything that has ranks.
//!
//! All operations are made of one: the ranks meet, each leaves its numbers, and each takes a look at what all have left.
//! A sum meets twice. Each rank adds up its part of the numbers over all ranks, then the parts are put together, so that
//! every number is added once and in the order of the ranks.

use std::ops::{AddAssign, Range};

use crate::sync::{Arc, Condvar, Mutex, lock, wait};
use crate::{Collective, CollectiveError, part_len};

/// One of several ranks in this process. A rank that is dropped, also by a panic of its thread, has ended: whoever waits
/// for it, or calls an operation later, gets an error.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    ranks: usize,
    room: Arc<Room>,
}

#[derive(Debug)]
struct Room {
    meeting: Mutex<Meeting>,
    changed: Condvar,
}

#[derive(Debug)]
struct Meeting {
    /// How many meetings have ended.
    ended: u64,
    /// What each rank has brought to the present one.
    arrivals: Vec<Option<Arrival>>,
    /// What all ranks brought to the last one. The next meeting cannot end before each of them has come again, so
    /// nobody misses it.
    last: Arc<Vec<Deposit>>,
    failure: Option<Failure>,
}

/// Why no further meeting will end.
#[derive(Clone, Debug)]
enum Failure {
    RankEnded(usize),
    Mismatch(CollectiveError),
}

impl Failure {
    fn seen_by(self, rank: usize, operation: &'static str) -> CollectiveError {
        match self {
            Self::RankEnded(ended) => CollectiveError::RankEnded { ended, waiting: rank, operation },
            Self::Mismatch(error) => error,
        }
    }
}

/// What must be equal on all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call {
    operation: &'static str,
    /// Numbers; `None` for operations of no size or of rank 0's.
    numbers: Option<usize>,
}

impl Call {
    fn describe(&self) -> String {
        match self.numbers {
            Some(numbers) => format!("`{}` of {numbers} numbers", self.operation),
            None => format!("`{}`", self.operation),
        }
    }
}

#[derive(Debug)]
struct Arrival {
    call: Call,
    deposit: Deposit,
}

/// What a rank leaves for the others.
#[derive(Debug)]
enum Deposit {
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bytes(Vec<u8>),
    Nothing,
}

/// A number of which there can be sums.
trait Number: Copy + AddAssign {
    fn deposit(numbers: Vec<Self>) -> Deposit;
    fn of(deposit: &Deposit) -> &[Self];
}

impl Number for f32 {
    fn deposit(numbers: Vec<Self>) -> Deposit {
        Deposit::F32(numbers)
    }

    fn of(deposit: &Deposit) -> &[Self] {
        match deposit {
            Deposit::F32(numbers) => numbers,
            other => unreachable!("calls are compared before deposits are read, and this is {other:?}"),
        }
    }
}

impl Number for f64 {
    fn deposit(numbers: Vec<Self>) -> Deposit {
        Deposit::F64(numbers)
    }

    fn of(deposit: &Deposit) -> &[Self] {
        match deposit {
            Deposit::F64(numbers) => numbers,
            other => unreachable!("calls are compared before deposits are read, and this is {other:?}"),
        }
    }
}

impl Threads {
    /// The ends of a group of so many ranks, in their order; each goes to a thread of its own.
    ///
    /// # Panics
    /// Without a rank.
    #[must_use]
    pub fn new(ranks: usize) -> Vec<Self> {
        assert!(ranks > 0, "a group has at least one rank");
        let meeting = Meeting {
            ended: 0,
            arrivals: (0..ranks).map(|_| None).collect(),
            last: Arc::new(Vec::new()),
            failure: None,
        };
        let room = Arc::new(Room { meeting: Mutex::new(meeting), changed: Condvar::new() });
        (0..ranks).map(|rank| Self { rank, ranks, room: Arc::clone(&room) }).collect()
    }

    /// Leaves a deposit, waits for all ranks, and returns what all have left, in their order.
    fn meet(&self, call: Call, deposit: Deposit) -> Result<Arc<Vec<Deposit>>, CollectiveError> {
        let mut meeting = lock(&self.room.meeting);
        if let Some(failure) = meeting.failure.clone() {
            return Err(failure.seen_by(self.rank, call.operation));
        }
        let place = &mut meeting.arrivals[self.rank];
        assert!(place.is_none(), "rank {} calls `{}` inside another call", self.rank, call.operation);
        *place = Some(Arrival { call, deposit });
        if meeting.arrivals.iter().all(Option::is_some) {
            meeting.end();
            self.room.changed.notify_all();
            return match meeting.failure.clone() {
                Some(failure) => Err(failure.seen_by(self.rank, call.operation)),
                None => Ok(Arc::clone(&meeting.last)),
            };
        }
        let before = meeting.ended;
        loop {
            // A meeting that has ended is looked at first: it stands whatever has happened since.
            if meeting.ended > before {
                return Ok(Arc::clone(&meeting.last));
            }
            if let Some(failure) = meeting.failure.clone() {
                return Err(failure.seen_by(self.rank, call.operation));
            }
            meeting = wait(&self.room.changed, meeting);
        }
    }

    /// The part of so many numbers that this rank adds up.
    fn own_part(&self, numbers: usize) -> Range<usize> {
        let part = numbers.div_ceil(self.ranks);
        (self.rank * part).min(numbers)..((self.rank + 1) * part).min(numbers)
    }

    fn sum_of<N: Number>(
        &self,
        numbers: &mut [N],
        operation: &'static str,
        result: &'static str,
    ) -> Result<(), CollectiveError> {
        let call = |operation| Call { operation, numbers: Some(numbers.len()) };
        let (first, second) = (call(operation), call(result));
        let all = self.meet(first, N::deposit(numbers.to_vec()))?;
        let own = self.own_part(numbers.len());
        let mut sums = N::of(&all[0])[own.clone()].to_vec();
        for deposit in &all[1..] {
            for (sum, number) in sums.iter_mut().zip(&N::of(deposit)[own.clone()]) {
                *sum += *number;
            }
        }
        let parts = self.meet(second, N::deposit(sums))?;
        let mut rest = numbers;
        for part in parts.iter().map(N::of) {
            let (place, behind) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = behind;
        }
        Ok(())
    }
}

impl Meeting {
    /// Ends the meeting that all ranks have come to, or finds that they did not come for the same.
    fn end(&mut self) {
        let arrivals: Vec<Arrival> = self.arrivals.iter_mut().filter_map(Option::take).collect();
        let first = arrivals[0].call;
        match arrivals.iter().position(|arrival| arrival.call != first) {
            Some(rank) => {
                self.failure = Some(Failure::Mismatch(CollectiveError::Mismatch {
                    expected: first.describe(),
                    rank,
                    found: arrivals[rank].call.describe(),
                }));
            }
            None => {
                self.last = Arc::new(arrivals.into_iter().map(|arrival| arrival.deposit).collect());
                self.ended += 1;
            }
        }
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn sum(&self, numbers: &mut [f32]) -> Result<(), CollectiveError> {
        self.sum_of(numbers, "sum", "the result of sum")
    }

    fn sum_f64(&self, numbers: &mut [f64]) -> Result<(), CollectiveError> {
        self.sum_of(numbers, "sum_f64", "the result of sum_f64")
    }

    fn share(&self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError> {
        let own = if self.rank == 0 { Deposit::Bytes(bytes.clone()) } else { Deposit::Nothing };
        let all = self.meet(Call { operation: "share", numbers: None }, own)?;
        if let Deposit::Bytes(shared) = &all[0] {
            bytes.clone_from(shared);
        }
        Ok(())
    }

    fn exchange(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CollectiveError> {
        let part = part_len(send, receive, self.ranks);
        let call = Call { operation: "exchange", numbers: Some(send.len()) };
        let all = self.meet(call, Deposit::F32(send.to_vec()))?;
        for (from, deposit) in all.iter().enumerate() {
            let own = &f32::of(deposit)[self.rank * part..(self.rank + 1) * part];
            receive[from * part..(from + 1) * part].copy_from_slice(own);
        }
        Ok(())
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.meet(Call { operation: "barrier", numbers: None }, Deposit::Nothing).map(|_| ())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut meeting = lock(&self.room.meeting);
        meeting.failure.get_or_insert(Failure::RankEnded(self.rank));
        drop(meeting);
        self.room.changed.notify_all();
    }
}
