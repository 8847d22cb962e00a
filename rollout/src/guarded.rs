//! Reading with code of others that panics where a file is damaged: the panic becomes an error of the file.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is caught and becomes an error, so that nobody needs to be told of it.
pub fn panic_is_caught() -> bool {
    GUARDED.get()
}

/// Does a piece of reading. Its readers have unchecked arithmetic on what a file says, so a damaged one can make them
/// panic: that is an error of the file.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let before = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    done.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("its reader panicked");
        Err(format!("damaged: {said}"))
    })
}
