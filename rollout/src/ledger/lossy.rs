//! A ledger behind a bad network: what actors tell it is dropped, doubled, delayed and reordered, answers get lost, and
//! a group may be handed to a second actor while the first one is at it. For tests.

use std::sync::Arc;

use trajectory::random::fraction;
use trajectory::{Finish, Prompt, Segment, Trajectory};

use super::local::LocalLedger;
use super::state::GroupState;
use super::{Ledger, Lost, SegmentEnd};
use crate::error::RolloutError;
use crate::scorer::Scored;
use crate::sync::{Mutex, lock};
use crate::weights::Notify;

pub(crate) struct LossyLedger {
    inner: Arc<LocalLedger>,
    actors: usize,
    network: Mutex<Network>,
}

#[derive(Default)]
struct Network {
    /// Messages so far: what happens to the next one is a function of this number.
    count: u64,
    /// Messages that have not arrived yet.
    on_the_way: Vec<Message>,
    seen: Seen,
}

/// How often each accident has happened.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) dropped: u64,
    pub(crate) doubled: u64,
    pub(crate) delayed: u64,
    pub(crate) handed_to_another: u64,
    pub(crate) lost: u64,
}

#[derive(Clone)]
enum Message {
    Segment { actor: usize, trajectory: Trajectory, finish: Option<Finish>, replayed: bool },
    Scored(Scored),
}

enum Accident {
    None,
    Dropped,
    Doubled,
    Delayed,
}

impl LossyLedger {
    pub(crate) fn new(inner: Arc<LocalLedger>, actors: usize) -> Self {
        Self { inner, actors, network: Mutex::default() }
    }

    pub(crate) fn seen(&self) -> Seen {
        lock(&self.network).seen
    }

    /// Half of all messages arrive as they should.
    fn accident(&self) -> Accident {
        let mut network = lock(&self.network);
        network.count += 1;
        let number = fraction(&[7, network.count]);
        let seen = &mut network.seen;
        if number < 0.15 {
            seen.dropped += 1;
            Accident::Dropped
        } else if number < 0.3 {
            seen.doubled += 1;
            Accident::Doubled
        } else if number < 0.5 {
            seen.delayed += 1;
            Accident::Delayed
        } else {
            Accident::None
        }
    }

    fn arrive(&self, message: Message) -> Result<(), RolloutError> {
        match message {
            Message::Segment { actor, trajectory, finish, replayed } => {
                let segment = SegmentEnd { actor, trajectory: &trajectory, finish, replayed };
                // Whoever told it has gone on long since.
                let _ = self.inner.record(segment);
                Ok(())
            }
            Message::Scored(scored) => self.inner.deliver(scored),
        }
    }

    /// Some message that was delayed arrives, not the oldest one first.
    fn arrive_late(&self) -> Result<(), RolloutError> {
        let mut network = lock(&self.network);
        let count = network.on_the_way.len();
        if count == 0 {
            return Ok(());
        }
        let place = (fraction(&[8, network.count]) * count as f64) as usize;
        let message = network.on_the_way.swap_remove(place);
        drop(network);
        self.arrive(message)
    }

    /// Everything that was delayed arrives.
    fn deliver_delayed(&self) -> Result<(), RolloutError> {
        while !lock(&self.network).on_the_way.is_empty() {
            self.arrive_late()?;
        }
        Ok(())
    }

    fn send_late(&self, message: Message) {
        lock(&self.network).on_the_way.push(message);
    }

    /// A group that another actor is at.
    fn taken_from_another(&self, actor: usize) -> Option<GroupState> {
        let mut network = lock(&self.network);
        network.count += 1;
        if fraction(&[9, network.count]) > 0.2 {
            return None;
        }
        drop(network);
        let other = (actor + 1) % self.actors;
        let group = self.inner.groups_of(other).pop()?;
        let mut network = lock(&self.network);
        network.seen.handed_to_another += 1;
        // Nothing that the first actor told and that has not arrived counts any more.
        network.on_the_way.retain(|message| match message {
            Message::Segment { trajectory, .. } => trajectory.group != group.id,
            Message::Scored(_) => true,
        });
        Some(group)
    }
}

impl Ledger for LossyLedger {
    fn admit(&self, actor: usize, version: u64) -> Option<GroupState> {
        match self.accident() {
            // The question got lost, and is asked again: the notification stands for the time after which that happens.
            Accident::Dropped | Accident::Delayed => {
                self.notify().notify_all();
                None
            }
            _ => self.taken_from_another(actor).or_else(|| self.inner.admit(actor, version)),
        }
    }

    fn assign(&self, group: u64, actor: usize, prompt: &Prompt, members: usize) {
        self.inner.assign(group, actor, prompt, members);
    }

    fn record(&self, segment: SegmentEnd<'_>) -> Result<(), Lost> {
        let SegmentEnd { actor, trajectory, finish, replayed } = segment;
        let late = || Message::Segment { actor, trajectory: trajectory.clone(), finish, replayed };
        let recorded = match self.accident() {
            // The next one tells the whole trajectory, and the scored group all of it.
            Accident::Dropped => Ok(()),
            Accident::Delayed => {
                self.send_late(late());
                Ok(())
            }
            Accident::Doubled => {
                self.send_late(late());
                self.inner.record(segment)
            }
            Accident::None => self.inner.record(segment),
        };
        self.arrive_late().expect("what is late is told again without an error");
        lock(&self.network).seen.lost += u64::from(recorded.is_err());
        recorded
    }

    fn replay_from_journal(&self, trajectory: &Trajectory, newest: u64) -> Option<Segment> {
        self.inner.replay_from_journal(trajectory, newest)
    }

    fn replay_open(&self, trajectory: &Trajectory) -> Option<Segment> {
        self.inner.replay_open(trajectory)
    }

    fn groups_of(&self, actor: usize) -> Vec<GroupState> {
        self.inner.groups_of(actor)
    }

    fn finish(&self, group: u64, actor: usize) -> Result<(), Lost> {
        self.inner.finish(group, actor)
    }

    fn abandon(&self, group: u64) {
        self.inner.abandon(group);
    }

    fn deliver(&self, scored: Scored) -> Result<(), RolloutError> {
        match self.accident() {
            // Told again until it is answered: here once more.
            Accident::Dropped | Accident::None => self.inner.deliver(scored)?,
            Accident::Doubled => {
                self.send_late(Message::Scored(scored.clone()));
                self.inner.deliver(scored)?;
            }
            Accident::Delayed => {
                self.send_late(Message::Scored(scored));
                self.deliver_delayed()?;
            }
        }
        self.arrive_late()
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    fn notify(&self) -> &Notify {
        self.inner.notify()
    }
}
