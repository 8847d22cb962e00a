//! What one completion is worth. Which verifiers give it belongs to the crate `rewards`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The worth of one completion: the weighted total and what it was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reward {
    /// Sum of weight times value over all rewards.
    pub total: f64,
    /// 0 or 1 by the reward that is marked as the correctness; `None` where no reward is.
    pub correctness: Option<u8>,
    /// Unweighted value by reward name, and a verifier's own parts as `name/part`.
    pub parts: BTreeMap<String, f64>,
}
