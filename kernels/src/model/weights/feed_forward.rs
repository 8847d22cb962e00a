//! The parameters of a block's second half.

/// The projections of one gated feed-forward part, each a `T`.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedWeights<T> {
    /// Gate projection, `[intermediate, hidden]`.
    pub gate: T,
    /// Up projection, `[intermediate, hidden]`.
    pub up: T,
    /// Down projection, `[hidden, intermediate]`.
    pub down: T,
}

/// The second half of a block.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedForwardWeights<T> {
    /// One gated part that all tokens go through.
    Gated(GatedWeights<T>),
}

/// What the names of the projections of a block begin with, where there is one gated part.
const GATED: &str = "mlp.";

impl<T> GatedWeights<T> {
    /// Visits the projections, whose names begin with `prefix`.
    fn for_each<'a>(&'a self, prefix: &str, visit: &mut impl FnMut(&str, &'a T)) {
        visit(&format!("{prefix}gate_proj.weight"), &self.gate);
        visit(&format!("{prefix}up_proj.weight"), &self.up);
        visit(&format!("{prefix}down_proj.weight"), &self.down);
    }

    fn for_each_mut<'a>(&'a mut self, prefix: &str, visit: &mut impl FnMut(&str, &'a mut T)) {
        visit(&format!("{prefix}gate_proj.weight"), &mut self.gate);
        visit(&format!("{prefix}up_proj.weight"), &mut self.up);
        visit(&format!("{prefix}down_proj.weight"), &mut self.down);
    }

    fn try_map<'a, U, E>(
        &'a self,
        prefix: &str,
        make: &mut impl FnMut(&str, &'a T) -> Result<U, E>,
    ) -> Result<GatedWeights<U>, E> {
        Ok(GatedWeights {
            gate: make(&format!("{prefix}gate_proj.weight"), &self.gate)?,
            up: make(&format!("{prefix}up_proj.weight"), &self.up)?,
            down: make(&format!("{prefix}down_proj.weight"), &self.down)?,
        })
    }
}

impl<T> FeedForwardWeights<T> {
    /// Visits every parameter with its name inside the block.
    pub(super) fn for_each<'a>(&'a self, visit: &mut impl FnMut(&str, &'a T)) {
        let Self::Gated(gated) = self;
        gated.for_each(GATED, visit);
    }

    /// Visits every parameter for change, in the same order.
    pub(super) fn for_each_mut<'a>(&'a mut self, visit: &mut impl FnMut(&str, &'a mut T)) {
        let Self::Gated(gated) = self;
        gated.for_each_mut(GATED, visit);
    }

    /// The same form with another value for each parameter.
    pub(super) fn try_map<'a, U, E>(
        &'a self,
        make: &mut impl FnMut(&str, &'a T) -> Result<U, E>,
    ) -> Result<FeedForwardWeights<U>, E> {
        let Self::Gated(gated) = self;
        Ok(FeedForwardWeights::Gated(gated.try_map(GATED, make)?))
    }
}
