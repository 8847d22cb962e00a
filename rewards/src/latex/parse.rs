//! Reads tokens into an [`Expression`] by recursive descent. Depth and size are bounded, so hostile nesting is an
//! error and not an overflow. Binding, from the loosest: `;` and `,` lists, `or`, `and`, relations, unions, moduli,
//! proportions, sums, products (also without a sign), powers and what stands behind a value (`!`, `%`, `°`, units).
//!
//! What is well-formed and has no value that could be worked out (`\sum`, `\cancel`, `A \subset B`) is read too, as a
//! function or relation that is known by its name.

mod atoms;
mod environments;
mod lists;
mod measures;
mod scripts;

use crate::latex::expression::{Expression, Function, Relation};
use crate::latex::lexer::{Token, Unreadable, lex};
use crate::latex::unicode::folded;

/// Levels of nesting, two for each pair of brackets. Written mathematics stays under twenty; each level takes some
/// six frames of the stack.
const DEPTH_MAX: usize = 128;

/// The expression that a text is. With `thousands` a comma before three digits joins `1,234` to one number.
pub(crate) fn parse(text: &str, thousands: bool) -> Result<Expression, Unreadable> {
    read(text, thousands).map(|reading| reading.expression)
}

/// Whether a text is mathematics as it is typeset: it can be read, and has neither bare words nor the loose ends of a
/// sentence.
pub(crate) fn is_typeset(text: &str) -> bool {
    read(text, true).is_ok_and(|reading| !reading.loose)
}

/// What a text was read as.
struct Reading {
    expression: Expression,
    /// Whether something was let pass that no one would typeset so.
    loose: bool,
}

fn read(text: &str, thousands: bool) -> Result<Reading, Unreadable> {
    let lexed = lex(&folded(text), thousands)?;
    let mut parser =
        Parser { tokens: &lexed.tokens, at: 0, depth: 0, bars: 0, aligned: false, loose: lexed.loose };
    let expression = parser.rows()?;
    if parser.at < lexed.tokens.len() {
        return Err(Unreadable);
    }
    Ok(Reading { expression, loose: parser.loose })
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    /// Absolute values that are open: inside one, a bar closes.
    bars: usize,
    /// Whether `&` aligns what stands here, rather than separating cells.
    aligned: bool,
    loose: bool,
}

type Parsed = Result<Expression, Unreadable>;

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    fn is_sign(&self, sign: char) -> bool {
        self.peek() == Some(&Token::Sign(sign))
    }

    /// Steps over a sign if it stands here.
    fn take(&mut self, sign: char) -> bool {
        let found = self.is_sign(sign);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: char) -> Result<(), Unreadable> {
        if self.take(sign) { Ok(()) } else { Err(Unreadable) }
    }

    /// Runs a rule one level deeper.
    fn nested(&mut self, rule: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        if self.depth >= DEPTH_MAX {
            return Err(Unreadable);
        }
        self.depth += 1;
        let result = rule(self);
        self.depth -= 1;
        result
    }

    /// Lists between semicolons, and between lines.
    fn rows(&mut self) -> Parsed {
        self.skip_lead();
        let mut rows = vec![self.stacked()?];
        while self.is_sign(';') || self.is_sign('\n') {
            let is_row = self.take('\n');
            self.at += usize::from(!is_row);
            if self.peek().is_none() {
                self.loose |= !is_row;
                break;
            }
            self.loose |= is_row;
            rows.push(self.list()?);
        }
        Ok(one_or(rows, Expression::List))
    }

    /// A list, or two with `\choose` or `\over` between them.
    fn stacked(&mut self) -> Parsed {
        let upper = self.list()?;
        self.stacked_on(upper)
    }

    /// What stands under a content that was read.
    fn stacked_on(&mut self, content: Expression) -> Parsed {
        let Some(Token::Command(name @ ("choose" | "over"))) = self.peek() else { return Ok(content) };
        self.at += 1;
        let lower = self.sum()?;
        Ok(match *name {
            "over" => Expression::Quotient(Box::new([content, lower])),
            _ => Expression::Call(Function::Binomial, vec![content, lower]),
        })
    }

    /// Steps over what joins an answer to the work before it: `\therefore`, and a relation whose left side stands there.
    fn skip_lead(&mut self) {
        while self.take('∴') {}
        let lead = match self.peek() {
            Some(Token::Relation(Relation::Equal | Relation::Approximate)) => true,
            Some(Token::Relation(relation)) => relation.is_implication(),
            _ => false,
        };
        self.loose |= matches!(self.peek(), Some(Token::Relation(Relation::Equal)));
        self.at += usize::from(lead);
    }

    fn list(&mut self) -> Parsed {
        Ok(one_or(self.items(&[','])?, Expression::List))
    }

    /// `a = b < c`.
    fn chain(&mut self) -> Parsed {
        self.skip_alignment();
        let mut members = vec![self.union()?];
        let mut relations = Vec::new();
        self.skip_alignment();
        while let Some(Token::Relation(relation)) = self.peek() {
            self.at += 1;
            self.skip_alignment();
            relations.push(*relation);
            members.push(self.union()?);
            self.skip_alignment();
        }
        Ok(match members.pop() {
            Some(member) if relations.is_empty() => member,
            last => {
                members.extend(last);
                Expression::Chain(members, relations)
            }
        })
    }

    /// Steps over the marks of alignment in an environment that has them.
    fn skip_alignment(&mut self) {
        while self.aligned && self.take('&') {}
    }

    /// `A ∪ B`, `A ∩ B`, `A ∖ B`.
    fn union(&mut self) -> Parsed {
        let mut left = self.proportion()?;
        loop {
            if self.take('∪') {
                let right = self.proportion()?;
                left = match left {
                    Expression::Union(mut parts) => {
                        parts.push(right);
                        Expression::Union(parts)
                    }
                    first => Expression::Union(vec![first, right]),
                };
            } else if self.take('∩') {
                left = Expression::Intersection(vec![left, self.proportion()?]);
            } else if self.take('∖') {
                left = Expression::Difference(Box::new([left, self.proportion()?]));
            } else {
                return Ok(left);
            }
        }
    }

    /// `a : b`, and a modulus behind it.
    fn proportion(&mut self) -> Parsed {
        let mut parts = vec![self.sum()?];
        while self.take(':') {
            parts.push(self.sum()?);
        }
        let value = match parts.pop() {
            // The half of the day belongs to the whole time.
            Some(Expression::Measure(minutes, unit)) if !parts.is_empty() && unit.is_day_half() => {
                parts.push(*minutes);
                Expression::Measure(Box::new(Expression::Proportion(parts)), unit)
            }
            last => {
                parts.extend(last);
                one_or(parts, Expression::Proportion)
            }
        };
        Ok(match self.modulus()? {
            Some(modulus) => Expression::Modulo(Box::new([value, modulus])),
            None => value,
        })
    }

    /// `\pmod 7`, `\bmod 7`, `(mod 7)`.
    fn modulus(&mut self) -> Result<Option<Expression>, Unreadable> {
        match self.tokens[self.at..] {
            [Token::Command("pmod"), ..] => {
                self.at += 1;
                self.argument().map(Some)
            }
            [Token::Modulo, ..] => {
                self.at += 1;
                self.sum().map(Some)
            }
            [Token::Sign('('), Token::Modulo, ..] => {
                self.at += 2;
                let modulus = self.sum()?;
                self.expect(')')?;
                Ok(Some(modulus))
            }
            _ => Ok(None),
        }
    }

    fn sum(&mut self) -> Parsed {
        let mut terms = Vec::new();
        loop {
            let sign = match self.peek() {
                Some(Token::Sign(sign @ ('+' | '-' | '±' | '∓'))) => Some(*sign),
                _ => None,
            };
            if sign.is_none() && !terms.is_empty() {
                return Ok(one_or(terms, Expression::Sum));
            }
            self.at += usize::from(sign.is_some());
            // Before the first term one sign is enough.
            self.loose |= terms.is_empty() && sign.is_some() && (self.is_sign('-') || self.is_sign('+'));
            let term = self.product()?;
            terms.push(match sign {
                Some('-') => Expression::Negative(Box::new(term)),
                Some('±') => Expression::PlusMinus(Box::new(term), false),
                Some('∓') => Expression::PlusMinus(Box::new(term), true),
                _ => term,
            });
        }
    }

    fn product(&mut self) -> Parsed {
        let mut factors = vec![self.factor()?];
        loop {
            if self.take('*') {
                factors.push(self.factor()?);
            } else if self.take('/') {
                let left = one_or(factors, Expression::Product);
                factors = vec![divided(left, self.factor()?)];
            } else if let Some(Token::Binary(name)) = self.peek() {
                self.at += 1;
                let left = one_or(factors, Expression::Product);
                factors = vec![Expression::Unknown(name.to_string(), vec![left, self.factor()?])];
            } else if self.begins_value() {
                let begins_with_digit = matches!(self.peek(), Some(Token::Number(_)));
                let right = self.nested(Self::power)?;
                if begins_with_digit && matches!(right, Expression::Number(_) | Expression::Sum(_)) {
                    // `2 3` is nothing.
                    return Err(Unreadable);
                }
                self.loose |= begins_with_digit && matches!(factors.last(), Some(Expression::Number(_)));
                join_factor(&mut factors, right);
            } else {
                let product = one_or(factors, Expression::Product);
                return self.measure(product);
            }
        }
    }

    /// A factor with its own sign, as in `2 * -3`.
    fn factor(&mut self) -> Parsed {
        let sign = match self.peek() {
            Some(Token::Sign(sign @ ('+' | '-'))) => Some(*sign),
            _ => None,
        };
        self.at += usize::from(sign.is_some());
        let value = self.nested(Self::power)?;
        Ok(if sign == Some('-') { Expression::Negative(Box::new(value)) } else { value })
    }

    /// Whether a factor without a multiplication sign begins here.
    fn begins_value(&self) -> bool {
        match self.peek() {
            Some(
                Token::Number(_)
                | Token::Based(..)
                | Token::Name(_)
                | Token::Function(_)
                | Token::Operator(_)
                | Token::Constant(_)
                | Token::Accent(_)
                | Token::Begin(_),
            ) => true,
            Some(Token::Command("frac")) => !self.is_unit_fraction(),
            Some(Token::Command(name)) => !matches!(*name, "choose" | "over" | "pmod"),
            Some(Token::Sign('(')) => self.tokens.get(self.at + 1) != Some(&Token::Modulo),
            Some(Token::Sign('{')) => !self.is_braced_unit(),
            Some(Token::Sign(sign)) => {
                matches!(sign, '[' | '⦃' | '⟨' | '⌊' | '⌈') || (*sign == '|' && self.bars == 0)
            }
            _ => false,
        }
    }

    /// One argument of a command: a group in braces, or one token; of a number only its first digit.
    fn argument(&mut self) -> Parsed {
        self.nested(|parser| match parser.peek() {
            Some(Token::Sign('{')) => parser.group(),
            // A number that is raised begins no mixed number.
            Some(Token::Number(number)) => {
                parser.at += 1;
                Ok(Expression::Number(number.clone()))
            }
            Some(
                Token::Name(_)
                | Token::Based(..)
                | Token::Constant(_)
                | Token::Command(_)
                | Token::Accent(_)
                | Token::Word(_)
                | Token::Function(_),
            ) => parser.atom(),
            Some(Token::Sign('(' | '|')) => parser.atom(),
            _ => Err(Unreadable),
        })
    }

    /// `{ ... }`, which may hold a list.
    fn group(&mut self) -> Parsed {
        self.expect('{')?;
        let bars = std::mem::take(&mut self.bars);
        let content = one_or(self.items(&[',', ';'])?, Expression::List);
        let content = self.stacked_on(content)?;
        self.bars = bars;
        self.expect('}')?;
        Ok(content)
    }
}

/// The only part itself, or all of them together.
fn one_or(mut parts: Vec<Expression>, whole: fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.pop() {
        Some(part) if parts.is_empty() => part,
        last => {
            parts.extend(last);
            whole(parts)
        }
    }
}

/// Appends a factor that stands without a sign. A condition in brackets is the argument of the name before it:
/// `P(X = 2)`.
fn join_factor(factors: &mut Vec<Expression>, right: Expression) {
    match (factors.last_mut(), right) {
        (
            Some(last @ Expression::Symbol(_)),
            condition @ (Expression::Chain(..)
            | Expression::And(_)
            | Expression::Or(_)
            | Expression::Union(_)
            | Expression::Intersection(_)
            | Expression::Difference(_)),
        ) => {
            if let Expression::Symbol(name) = last {
                *last = Expression::Unknown(std::mem::take(name), vec![condition]);
            }
        }
        (_, right) => factors.push(right),
    }
}

/// A quotient with a slash. A percent or degree sign behind two numbers belongs to both: `100/3\%`.
fn divided(left: Expression, right: Expression) -> Expression {
    let quotient = |left, right| Expression::Quotient(Box::new([left, right]));
    match (left, right) {
        (left @ Expression::Number(_), Expression::Percent(right))
            if matches!(*right, Expression::Number(_)) =>
        {
            Expression::Percent(Box::new(quotient(left, *right)))
        }
        (left @ Expression::Number(_), Expression::Degrees(right))
            if matches!(*right, Expression::Number(_)) =>
        {
            Expression::Degrees(Box::new(quotient(left, *right)))
        }
        (left, right) => quotient(left, right),
    }
}
