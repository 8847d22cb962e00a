//! What a template pays for the work of the functions here. minijinja counts instructions, and the sizes of what its own
//! filters take and give; what is made or gone through on the way here is paid before it is.

use minijinja::{Error, State, Value};

/// Bytes that a step pays for, as in minijinja.
const STEP_BYTES: usize = 64;

/// Bytes of an item of a list with what its growth takes.
const ITEM_BYTES: usize = 32;

/// Items of a list that are paid for together.
const ITEMS_TOGETHER: usize = 256;

/// Pays for so many bytes of text that are made or looked at.
pub(in crate::text) fn bytes(state: &State<'_, '_>, count: usize) -> Result<(), Error> {
    match count / STEP_BYTES {
        0 => Ok(()),
        steps => state.consume_fuel(steps as u64),
    }
}

/// Pays for so many items of a list.
pub(in crate::text) fn items(state: &State<'_, '_>, count: usize) -> Result<(), Error> {
    bytes(state, count.saturating_mul(ITEM_BYTES))
}

/// All values of a list, each of them paid for: a list can say that it has a billion and make them only here.
pub(in crate::text) fn collected(
    state: &State<'_, '_>,
    values: impl Iterator<Item = Value>,
) -> Result<Vec<Value>, Error> {
    let mut all = Vec::new();
    for value in values {
        if all.len() % ITEMS_TOGETHER == 0 {
            items(state, ITEMS_TOGETHER)?;
        }
        all.push(value);
    }
    Ok(all)
}

/// A text that grows and is paid for as it does.
pub(in crate::text) struct Growing<'s, 't, 'e> {
    pub(in crate::text) text: String,
    /// Without one nothing is paid: a value of the data is shown, which has an end.
    state: Option<&'s State<'t, 'e>>,
    paid: usize,
}

impl<'s, 't, 'e> Growing<'s, 't, 'e> {
    pub(in crate::text) fn new(state: Option<&'s State<'t, 'e>>) -> Self {
        Self { text: String::new(), state, paid: 0 }
    }

    /// Pays for what has been written since the last time.
    pub(in crate::text) fn pay(&mut self) -> Result<(), Error> {
        let new = self.text.len() - self.paid;
        if new < STEP_BYTES {
            return Ok(());
        }
        self.paid = self.text.len();
        self.state.map_or(Ok(()), |state| bytes(state, new))
    }

    /// Pays for so many bytes before they are written at once.
    pub(in crate::text) fn pay_for(&self, count: usize) -> Result<(), Error> {
        self.state.map_or(Ok(()), |state| bytes(state, count))
    }
}
