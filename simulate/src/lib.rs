//! A run without a model: rollout's real scheduler, pacing and queue on a virtual clock, against a distribution of
//! lengths and a model of what decoding and learning cost.
//!
//! No tensor, no thread, no network: a simulation is a function of its plan.

mod error;
mod lengths;
mod costs;
mod plan;
mod slots;
mod clock;

pub use clock::run_virtually;
pub use costs::{Contention, CostModel, DecodeWork, Observation, fit as fit_costs};
pub use error::SimulateError;
pub use lengths::LengthDistribution;
pub use plan::{VirtualPlan, VirtualStep};
