//! The tree that an answer is read into. It holds what was written, not what it is worth: `2/4` stays a quotient.

use crate::latex::ratio::Ratio;
use crate::latex::unit::Unit;

/// A number as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Number {
    /// Its exact value.
    pub(crate) value: Ratio,
    /// Digits behind the decimal point, less the decimal exponent; `None` without a point.
    pub(crate) places: Option<i64>,
    /// Significant digits: those from the first that is not zero.
    pub(crate) digits: usize,
    /// The text of an integer with leading zeros kept, for bases and times; empty if it was no plain integer.
    pub(crate) plain: String,
}

/// Constants with a value of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Constant {
    Pi,
    E,
    I,
    Infinity,
}

/// Functions that are evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    Exp,
    Ln,
    /// The base stands before the argument; without one it is ten.
    Log,
    Absolute,
    Floor,
    Ceiling,
    Factorial,
    Binomial,
    Min,
    Max,
    Gcd,
    Lcm,
}

/// What stands between the members of a chain `a = b < c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Equal,
    Approximate,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Element,
    /// `\equiv`.
    Congruent,
    /// One that is compared by its name.
    Other(&'static str),
}

impl Relation {
    /// The relation that holds with both sides exchanged, or multiplied by a negative number.
    pub(crate) fn flipped(self) -> Relation {
        match self {
            Relation::Less => Relation::Greater,
            Relation::LessOrEqual => Relation::GreaterOrEqual,
            Relation::Greater => Relation::Less,
            Relation::GreaterOrEqual => Relation::LessOrEqual,
            other => other,
        }
    }

    /// Whether this says that one statement follows from another. Plain arrows do so between equations.
    pub(crate) fn is_implication(self) -> bool {
        const NAMES: [&str; 9] = [
            "Rightarrow",
            "Leftrightarrow",
            "Longrightarrow",
            "Longleftrightarrow",
            "implies",
            "iff",
            "to",
            "rightarrow",
            "longrightarrow",
        ];
        matches!(self, Relation::Other(name) if NAMES.contains(&name))
    }

    /// Whether this is one of the four orderings.
    pub(crate) fn is_order(self) -> bool {
        self != self.flipped()
    }
}

/// One answer, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expression {
    Number(Number),
    /// Digits with a base, `1011_2`.
    Based(String, u32),
    /// A variable with its subscripts and primes.
    Symbol(String),
    Constant(Constant),
    Sum(Vec<Expression>),
    Product(Vec<Expression>),
    Negative(Box<Expression>),
    Quotient(Box<[Expression; 2]>),
    Power(Box<[Expression; 2]>),
    /// Degree and radicand.
    Root(Box<[Expression; 2]>),
    Call(Function, Vec<Expression>),
    /// A function that is only known by its name.
    Unknown(String, Vec<Expression>),
    /// `±x`, and with the flag `∓x`. All signs of one answer are taken together.
    PlusMinus(Box<Expression>, bool),
    Percent(Box<Expression>),
    Degrees(Box<Expression>),
    Measure(Box<Expression>, Unit),
    /// `5 \pmod 7` and `19 \bmod 7`: a number and its modulus.
    Modulo(Box<[Expression; 2]>),
    /// `a : b : c`, which may also be a time.
    Proportion(Vec<Expression>),
    /// Two or more parts in round or square brackets: a tuple or an interval.
    Bracket(char, Vec<Expression>, char),
    /// What stands in curly brackets.
    Set(Vec<Expression>),
    /// Parts with commas between them and no brackets around.
    List(Vec<Expression>),
    /// Parts with `and` between them, which hold together.
    And(Vec<Expression>),
    /// Parts with `or` between them, of which any may hold.
    Or(Vec<Expression>),
    /// The pieces of a function: values with their conditions.
    Pieces(Vec<[Expression; 2]>),
    Union(Vec<Expression>),
    Intersection(Vec<Expression>),
    Difference(Box<[Expression; 2]>),
    Matrix(Vec<Vec<Expression>>),
    /// Members and what stands between them, one relation fewer than members.
    Chain(Vec<Expression>, Vec<Relation>),
    /// Words.
    Text(String),
}

impl Expression {
    /// An integer that was not written but is meant, such as the degree of a square root.
    pub(crate) fn whole(value: i64) -> Expression {
        Expression::Number(Number {
            value: Ratio::whole(value),
            places: None,
            digits: value.unsigned_abs().to_string().len(),
            plain: String::new(),
        })
    }

    /// The direct parts.
    pub(crate) fn parts(&self) -> Vec<&Expression> {
        match self {
            Expression::Number(_)
            | Expression::Based(..)
            | Expression::Symbol(_)
            | Expression::Constant(_)
            | Expression::Text(_) => Vec::new(),
            Expression::Negative(part)
            | Expression::PlusMinus(part, _)
            | Expression::Percent(part)
            | Expression::Degrees(part)
            | Expression::Measure(part, _) => vec![part],
            Expression::Quotient(pair)
            | Expression::Power(pair)
            | Expression::Root(pair)
            | Expression::Modulo(pair)
            | Expression::Difference(pair) => pair.iter().collect(),
            Expression::Sum(parts)
            | Expression::Product(parts)
            | Expression::Call(_, parts)
            | Expression::Unknown(_, parts)
            | Expression::Proportion(parts)
            | Expression::Bracket(_, parts, _)
            | Expression::Set(parts)
            | Expression::List(parts)
            | Expression::And(parts)
            | Expression::Or(parts)
            | Expression::Union(parts)
            | Expression::Intersection(parts)
            | Expression::Chain(parts, _) => parts.iter().collect(),
            Expression::Pieces(pieces) => pieces.iter().flatten().collect(),
            Expression::Matrix(rows) => rows.iter().flatten().collect(),
        }
    }

    /// Whether this or any part of it satisfies a condition.
    pub(crate) fn any(&self, condition: &dyn Fn(&Expression) -> bool) -> bool {
        condition(self) || self.parts().into_iter().any(|part| part.any(condition))
    }

    /// The same tree with its direct parts replaced.
    pub(crate) fn map_parts(&self, change: &mut dyn FnMut(&Expression) -> Expression) -> Expression {
        let mut all = |parts: &[Expression]| parts.iter().map(&mut *change).collect::<Vec<_>>();
        match self {
            Expression::Sum(parts) => Expression::Sum(all(parts)),
            Expression::Product(parts) => Expression::Product(all(parts)),
            Expression::Call(function, parts) => Expression::Call(*function, all(parts)),
            Expression::Unknown(name, parts) => Expression::Unknown(name.clone(), all(parts)),
            Expression::Proportion(parts) => Expression::Proportion(all(parts)),
            Expression::Bracket(open, parts, close) => Expression::Bracket(*open, all(parts), *close),
            Expression::Set(parts) => Expression::Set(all(parts)),
            Expression::List(parts) => Expression::List(all(parts)),
            Expression::And(parts) => Expression::And(all(parts)),
            Expression::Or(parts) => Expression::Or(all(parts)),
            Expression::Union(parts) => Expression::Union(all(parts)),
            Expression::Intersection(parts) => Expression::Intersection(all(parts)),
            Expression::Chain(parts, relations) => Expression::Chain(all(parts), relations.clone()),
            Expression::Matrix(rows) => Expression::Matrix(rows.iter().map(|row| all(row)).collect()),
            Expression::Negative(part) => Expression::Negative(Box::new(change(part))),
            Expression::PlusMinus(part, flipped) => Expression::PlusMinus(Box::new(change(part)), *flipped),
            Expression::Percent(part) => Expression::Percent(Box::new(change(part))),
            Expression::Degrees(part) => Expression::Degrees(Box::new(change(part))),
            Expression::Measure(part, unit) => Expression::Measure(Box::new(change(part)), unit.clone()),
            Expression::Quotient(pair) => {
                Expression::Quotient(Box::new([change(&pair[0]), change(&pair[1])]))
            }
            Expression::Power(pair) => Expression::Power(Box::new([change(&pair[0]), change(&pair[1])])),
            Expression::Root(pair) => Expression::Root(Box::new([change(&pair[0]), change(&pair[1])])),
            Expression::Difference(pair) => {
                Expression::Difference(Box::new([change(&pair[0]), change(&pair[1])]))
            }
            Expression::Modulo(pair) => Expression::Modulo(Box::new([change(&pair[0]), change(&pair[1])])),
            Expression::Pieces(pieces) => {
                let piece = |[value, condition]: &[Expression; 2]| [change(value), change(condition)];
                Expression::Pieces(pieces.iter().map(piece).collect())
            }
            leaf => leaf.clone(),
        }
    }
}
