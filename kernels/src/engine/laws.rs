//! The laws that every engine obeys, stated once and run on all: on the CPU, and on a device, which here is burn's CPU
//! backend in burn's own operations.

mod adapters;
mod decoding;
pub(crate) mod gradients;
mod reference;

/// Runs each law, a function of an engine, on every engine.
macro_rules! on_every_engine {
    ($($law:ident),+ $(,)?) => {
        mod cpu {
            $(#[test] fn $law() { super::$law(&crate::engine::Cpu::default()); })+
        }
        mod on_device {
            $(#[test] fn $law() { super::$law(&crate::engine::OnDevice::new(crate::Device::flex())); })+
        }
    };
}
use on_every_engine;
