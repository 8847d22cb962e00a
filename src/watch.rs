//! What is seen and said of a run while it goes on: terminal, log, signals, a run that stands still, alarms.

pub mod progress;
pub mod log;
pub mod shutdown;
pub mod watchdog;
pub mod alarms;
