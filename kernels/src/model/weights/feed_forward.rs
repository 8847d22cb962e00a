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

/// A router and the experts that it chooses among, each a `T`.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertsWeights<T> {
    /// One row an expert, `[experts, hidden]`.
    pub router: T,
    /// The experts in the order of the router's rows.
    pub experts: Vec<GatedWeights<T>>,
}

/// The second half of a block.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedForwardWeights<T> {
    /// One gated part that all tokens go through.
    Gated(GatedWeights<T>),
    /// Several of which a token goes through some.
    Experts(ExpertsWeights<T>),
}

/// What the names of the projections begin with, where there is one gated part.
const GATED: &str = "mlp.";
pub(super) const ROUTER: &str = "mlp.gate.weight";

/// What the names of an expert's projections begin with.
fn expert(number: usize) -> String {
    format!("mlp.experts.{number}.")
}

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
        match self {
            Self::Gated(gated) => gated.for_each(GATED, visit),
            Self::Experts(ExpertsWeights { router, experts }) => {
                visit(ROUTER, router);
                for (number, own) in experts.iter().enumerate() {
                    own.for_each(&expert(number), visit);
                }
            }
        }
    }

    /// Visits every parameter for change, in the same order.
    pub(super) fn for_each_mut<'a>(&'a mut self, visit: &mut impl FnMut(&str, &'a mut T)) {
        match self {
            Self::Gated(gated) => gated.for_each_mut(GATED, visit),
            Self::Experts(ExpertsWeights { router, experts }) => {
                visit(ROUTER, router);
                for (number, own) in experts.iter_mut().enumerate() {
                    own.for_each_mut(&expert(number), visit);
                }
            }
        }
    }

    /// The same form with another value for each parameter.
    pub(super) fn try_map<'a, U, E>(
        &'a self,
        make: &mut impl FnMut(&str, &'a T) -> Result<U, E>,
    ) -> Result<FeedForwardWeights<U>, E> {
        Ok(match self {
            Self::Gated(gated) => FeedForwardWeights::Gated(gated.try_map(GATED, make)?),
            Self::Experts(ExpertsWeights { router, experts }) => {
                let router = make(ROUTER, router)?;
                let experts = experts.iter().enumerate();
                let experts = experts.map(|(number, own)| own.try_map(&expert(number), make));
                FeedForwardWeights::Experts(ExpertsWeights {
                    router,
                    experts: experts.collect::<Result<_, E>>()?,
                })
            }
        })
    }
}
