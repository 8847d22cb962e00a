//! How much of a bounded cache trajectories take, in blocks, and who begins a segment where not all can. Pure:
//! numbers only.

/// The cache of one decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Blocks of it.
    pub blocks: usize,
    /// Tokens of a block; a context takes whole blocks.
    pub block_tokens: usize,
}

impl Room {
    /// The whole blocks in so many tokens.
    pub fn of_tokens(tokens: usize, block_tokens: usize) -> Self {
        Self { blocks: tokens / block_tokens, block_tokens }
    }

    /// Blocks of a context of so many tokens. A shared prefix counts for each of its contexts, so that no
    /// context loses room when another one ends.
    pub fn taken_by(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens)
    }

    /// Whether a context of so many tokens has room when it is alone.
    pub fn holds(&self, tokens: usize) -> bool {
        self.taken_by(tokens) <= self.blocks
    }
}

/// A trajectory inside a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reserved {
    /// Blocks at the end of the segment.
    pub(super) now: usize,
    /// Blocks at the end of the segment after it.
    pub(super) next: usize,
}

/// What a trajectory at a boundary may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoomDecision {
    /// It begins.
    Begins,
    /// It waits, and those after it may use the room that is too little for it.
    Waits,
    /// It waits for room that those after it have, so none of them may begin.
    WaitsForLater,
}

/// Who may begin, asked for one trajectory after the other in their order.
///
/// Whoever begins leaves room for the next segments of all that go before it: segments are equally long, so each of
/// those comes to its next boundary while this one decodes, and would have to give its cache up then. So it is always
/// the last in the order that waits. A trajectory that waits only for later ones holds all of them back at their
/// boundaries; it has its room after one segment at the latest.
#[derive(Debug)]
pub(super) struct Allotment {
    blocks: usize,
    /// Blocks of those before the trajectory that is asked for, to the end of their next segments.
    earlier: usize,
    /// Blocks of those after it, to the end of their segments.
    later: usize,
    held: bool,
}

impl Allotment {
    /// `decoding` are all that are inside a segment.
    pub(super) fn new(room: Room, decoding: impl Iterator<Item = Reserved>) -> Self {
        let later = decoding.map(|reserved| reserved.now).sum();
        Self { blocks: room.blocks, earlier: 0, later, held: false }
    }

    /// Goes past a trajectory that is inside a segment.
    pub(super) fn pass(&mut self, reserved: Reserved) {
        self.later -= reserved.now;
        self.earlier += reserved.next;
    }

    /// What a trajectory that would take so much may do.
    pub(super) fn ask(&mut self, reserved: Reserved) -> RoomDecision {
        if self.held {
            return RoomDecision::Waits;
        }
        if self.earlier + self.later + reserved.now <= self.blocks {
            return RoomDecision::Begins;
        }
        if self.earlier + reserved.now <= self.blocks {
            self.held = true;
            return RoomDecision::WaitsForLater;
        }
        RoomDecision::Waits
    }

    /// A trajectory that was asked for begins.
    pub(super) fn begin(&mut self, reserved: Reserved) {
        self.earlier += reserved.next;
    }
}

#[cfg(test)]
mod tests {
    use super::{Allotment, Reserved, Room, RoomDecision};

    #[test]
    fn contexts_take_whole_blocks() {
        let room = Room::of_tokens(700, 64);
        assert_eq!(room, Room { blocks: 10, block_tokens: 64 });
        assert_eq!([0, 1, 64, 65].map(|tokens| room.taken_by(tokens)), [0, 1, 1, 2]);
        assert_eq!([640, 641].map(|tokens| room.holds(tokens)), [true, false]);
    }

    /// Ten blocks, three of them with one that is decoding and later than all that ask.
    #[test]
    fn who_begins_leaves_room_for_the_next_segments_of_those_before() {
        let later = Reserved { now: 3, next: 4 };
        let mut allotment = Allotment::new(Room { blocks: 10, block_tokens: 1 }, [later].into_iter());
        let first = Reserved { now: 2, next: 4 };
        assert_eq!(allotment.ask(first), RoomDecision::Begins);
        allotment.begin(first);
        // Four are set aside for the first and three are taken: three are left.
        assert_eq!(allotment.ask(Reserved { now: 3, next: 5 }), RoomDecision::Begins);
        assert_eq!(
            allotment.ask(Reserved { now: 7, next: 9 }),
            RoomDecision::Waits,
            "it never fits beside the first"
        );
        assert_eq!(allotment.ask(Reserved { now: 4, next: 6 }), RoomDecision::WaitsForLater);
        allotment.pass(later);
        assert_eq!(allotment.ask(Reserved { now: 1, next: 1 }), RoomDecision::Waits, "held back");
    }
}
