//! The ramp that lengths are paid by (LongWriter-Zero, arXiv 2506.18841): full inside a range, less below it, less
//! above it.

use crate::RewardError;

/// 1 from `min` to `max`, `length / min` below, `(limit - length) / (limit - max)` above and never below 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ramp {
    min: f64,
    max: f64,
    limit: f64,
}

/// A number of a ramp, with the name under which the caller knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: f64,
}

impl Ramp {
    /// A ramp over a range.
    ///
    /// # Errors
    /// Names the one of the three that is out of order.
    pub(crate) fn new(min: Bound<'_>, max: Bound<'_>, limit: Bound<'_>) -> Result<Self, RewardError> {
        let Bound { name: min_name, value: min } = min;
        let Bound { name: max_name, value: max } = max;
        let Bound { name: limit_name, value: limit } = limit;
        if !(min.is_finite() && min >= 0.0) {
            return Err(RewardError::config(min_name, format!("must be finite and at least 0, not {min}")));
        }
        if !(max.is_finite() && max >= min) {
            let reason = format!("must be finite and at least `{min_name}` = {min}, not {max}");
            return Err(RewardError::config(max_name, reason));
        }
        if !(limit.is_finite() && limit > max) {
            let reason = format!("must be finite and above `{max_name}` = {max}, not {limit}");
            return Err(RewardError::config(limit_name, reason));
        }
        Ok(Ramp { min, max, limit })
    }

    /// What a length is worth, from 0 to 1.
    pub(crate) fn value(&self, length: f64) -> f64 {
        if length < self.min {
            length / self.min
        } else if length <= self.max {
            1.0
        } else {
            ((self.limit - length) / (self.limit - self.max)).max(0.0)
        }
    }

    /// Whether a length is paid in full.
    pub(crate) fn contains(&self, length: f64) -> bool {
        (self.min..=self.max).contains(&length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn ramp(min: f64, max: f64, limit: f64) -> Result<Ramp, RewardError> {
        let bound = |name, value| Bound { name, value };
        Ramp::new(bound("min", min), bound("max", max), bound("limit", limit))
    }

    #[test]
    fn rises_to_the_range_and_falls_behind_it() {
        let ramp = ramp(200.0, 300.0, 700.0).unwrap();
        let points = [
            (0.0, 0.0),
            (50.0, 0.25),
            (100.0, 0.5),
            (200.0, 1.0),
            (250.0, 1.0),
            (300.0, 1.0),
            (400.0, 0.75),
            (600.0, 0.25),
            (700.0, 0.0),
            (5000.0, 0.0),
        ];
        for (length, value) in points {
            assert_eq!(ramp.value(length), value, "{length}");
            assert_eq!(ramp.contains(length), value == 1.0, "{length}");
        }
    }

    #[test]
    fn a_range_may_begin_at_0_and_be_one_length() {
        assert_eq!(ramp(0.0, 10.0, 20.0).unwrap().value(0.0), 1.0);
        let one = ramp(10.0, 10.0, 20.0).unwrap();
        assert_eq!([5.0, 10.0, 15.0].map(|length| one.value(length)), [0.5, 1.0, 0.5]);
    }

    #[test]
    fn a_disorder_names_the_key() {
        let message = |min, max, limit| ramp(min, max, limit).unwrap_err().to_string();
        assert!(message(-1.0, 2.0, 3.0).starts_with("min: "));
        assert!(message(f64::NAN, 2.0, 3.0).starts_with("min: "));
        assert_eq!(message(2.0, 1.0, 3.0), "max: must be finite and at least `min` = 2, not 1");
        assert_eq!(message(1.0, 2.0, 2.0), "limit: must be finite and above `max` = 2, not 2");
        assert!(message(1.0, f64::INFINITY, 2.0).starts_with("max: "));
        assert!(message(1.0, 2.0, f64::INFINITY).starts_with("limit: "));
    }

    proptest! {
        #[test]
        fn stays_between_0_and_1_and_is_1_exactly_inside(
            min in 0u32..2000,
            width in 0u32..2000,
            room in 1u32..2000,
            length in any::<u32>(),
        ) {
            let (min, max) = (f64::from(min), f64::from(min + width));
            let ramp = ramp(min, max, max + f64::from(room)).unwrap();
            for length in [f64::from(length), f64::from(length % 8000)] {
                prop_assert!((0.0..=1.0).contains(&ramp.value(length)));
                prop_assert_eq!(ramp.value(length) == 1.0, ramp.contains(length));
            }
        }
    }
}
