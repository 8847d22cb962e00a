//! Reads tokens into an [`Expression`] by recursive descent. Depth and size are bounded, so hostile nesting is an
//! error and not an overflow. Binding, from the loosest: `;` and `,` lists, relations, unions, proportions, sums,
//! products (also without a sign), powers and what stands behind a value (`!`, `%`, `°`, units).

mod atoms;

use crate::latex::expression::{Constant, Expression, Function};
use crate::latex::lexer::{Token, Unreadable, lex};
use crate::latex::unit::Unit;

/// Levels of nesting. Written mathematics stays under ten; each level takes some ten frames of the stack.
const DEPTH_MAX: usize = 64;

/// Words behind a number that make it another answer.
const QUALIFIERS: [&str; 16] = [
    "not", "no", "is", "are", "was", "if", "when", "unless", "than", "more", "less", "fewer", "except",
    "without", "wrong", "but",
];

/// The expression that a text is. With `thousands` a comma before three digits joins `1,234` to one number.
pub(crate) fn parse(text: &str, thousands: bool) -> Result<Expression, Unreadable> {
    let tokens = lex(text, thousands)?;
    let mut parser = Parser { tokens: &tokens, at: 0, depth: 0, bars: 0 };
    let expression = parser.rows()?;
    if parser.at == tokens.len() { Ok(expression) } else { Err(Unreadable) }
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    /// Absolute values that are open: inside one, a bar closes.
    bars: usize,
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
        let mut rows = vec![self.list()?];
        while self.is_sign(';') || self.is_sign('\n') {
            self.at += 1;
            if self.peek().is_none() {
                break;
            }
            rows.push(self.list()?);
        }
        Ok(one_or(rows, Expression::List))
    }

    fn list(&mut self) -> Parsed {
        Ok(one_or(self.items(&[','])?, Expression::List))
    }

    /// Relations between commas, `and` and `or`.
    fn items(&mut self, commas: &[char]) -> Result<Vec<Expression>, Unreadable> {
        let mut items = Vec::new();
        loop {
            while self.peek() == Some(&Token::Separator) {
                self.at += 1;
            }
            items.push(self.chain()?);
            let comma = commas.iter().any(|&comma| self.take(comma));
            let word = self.peek() == Some(&Token::Separator);
            self.at += usize::from(word);
            if !comma && !word {
                return Ok(items);
            }
            if self.peek().is_none() {
                // A comma at the end belongs to the sentence around.
                return if word { Err(Unreadable) } else { Ok(items) };
            }
        }
    }

    /// `a = b < c`.
    fn chain(&mut self) -> Parsed {
        let mut members = vec![self.union()?];
        let mut relations = Vec::new();
        while let Some(Token::Relation(relation)) = self.peek() {
            self.at += 1;
            relations.push(*relation);
            members.push(self.union()?);
        }
        Ok(match members.pop() {
            Some(member) if relations.is_empty() => member,
            last => {
                members.extend(last);
                Expression::Chain(members, relations)
            }
        })
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

    /// `a : b`.
    fn proportion(&mut self) -> Parsed {
        let mut parts = vec![self.sum()?];
        while self.take(':') {
            parts.push(self.sum()?);
        }
        Ok(one_or(parts, Expression::Proportion))
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
                factors = vec![Expression::Quotient(Box::new([left, self.factor()?]))];
            } else if self.is_plain_fraction() && factors.len() == 1 {
                let Some(whole) = factors.pop().filter(is_whole) else { return Err(Unreadable) };
                let (top, _) = (self.atom()?, self.at += 1);
                let part = Expression::Quotient(Box::new([top, self.atom()?]));
                factors.push(Expression::Sum(vec![whole, part]));
            } else if self.begins_value() {
                let right = self.nested(Self::power)?;
                join_factor(&mut factors, right)?;
            } else {
                let product = one_or(factors, Expression::Product);
                return self.measure(product);
            }
        }
    }

    /// Whether the fraction of a mixed number such as `2 1/2` stands here.
    fn is_plain_fraction(&self) -> bool {
        matches!(self.tokens[self.at..], [Token::Number(_), Token::Sign('/'), Token::Number(_), ..])
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
            Some(Token::Number(_) | Token::Name(_) | Token::Function(_) | Token::Constant(_)) => true,
            Some(Token::Command(name)) => !matches!(*name, "choose" | "over"),
            Some(Token::Begin(_)) => true,
            Some(Token::Sign(sign)) => {
                matches!(sign, '(' | '[' | '{' | '⦃' | '⟨' | '⌊' | '⌈') || (*sign == '|' && self.bars == 0)
            }
            _ => false,
        }
    }

    /// The unit behind a value, if there is one.
    fn measure(&mut self, value: Expression) -> Parsed {
        if !matches!(self.peek(), Some(Token::Word(_))) || matches!(value, Expression::Text(_)) {
            return Ok(value);
        }
        let (mut unit, mut divides, mut power) = (Unit::none(), false, 1);
        loop {
            match self.peek() {
                Some(Token::Word(word)) => {
                    self.at += 1;
                    match word.to_lowercase().as_str() {
                        "per" => divides = true,
                        "square" | "sq" => power = 2,
                        "cubic" | "cu" => power = 3,
                        "squared" | "cubed" => return Err(Unreadable),
                        // What is said about a number is not what it counts.
                        word if QUALIFIERS.contains(&word) => return Err(Unreadable),
                        // These say nothing, and neither do pronouns of what is counted.
                        "of" | "the" | "a" | "an" | "each" | "total" => {}
                        _ => {
                            let exponent = self.unit_exponent()? * power * if divides { -1 } else { 1 };
                            let factor = Unit::named(word).power(exponent).ok_or(Unreadable)?;
                            unit = unit.times(&factor).ok_or(Unreadable)?;
                            power = 1;
                        }
                    }
                }
                Some(Token::Sign('/')) if matches!(self.tokens.get(self.at + 1), Some(Token::Word(_))) => {
                    self.at += 1;
                    divides = true;
                }
                Some(Token::Sign('*')) if matches!(self.tokens.get(self.at + 1), Some(Token::Word(_))) => {
                    self.at += 1;
                }
                _ => return Ok(Expression::Measure(Box::new(value), unit)),
            }
        }
    }

    /// The power of a unit: `cm^2`, `cm^{2}`.
    fn unit_exponent(&mut self) -> Result<i64, Unreadable> {
        if !self.take('^') {
            return Ok(1);
        }
        match self.argument()? {
            Expression::Number(number) => number.value.to_i64().ok_or(Unreadable),
            Expression::Negative(inner) => match *inner {
                Expression::Number(number) => number.value.to_i64().map(|value| -value).ok_or(Unreadable),
                _ => Err(Unreadable),
            },
            _ => Err(Unreadable),
        }
    }

    /// A value with everything that is attached to it.
    fn power(&mut self) -> Parsed {
        let mut value = self.atom()?;
        loop {
            if self.take('^') {
                if self.take('°') || self.is_braced('°') {
                    value = Expression::Degrees(Box::new(value));
                    continue;
                }
                if self.tokens[self.at..].starts_with(&[Token::Sign('{'), Token::Sign('}')]) {
                    // What stood there made an ordinal of the number.
                    self.at += 2;
                    continue;
                }
                if self.take('\'') || self.is_braced('\'') {
                    value = primed(value)?;
                    continue;
                }
                let exponent = self.nested(Self::exponent)?;
                value = Expression::Power(Box::new([value, exponent]));
            } else if self.take('!') {
                value = Expression::Call(Function::Factorial, vec![value]);
            } else if self.take('%') {
                value = Expression::Percent(Box::new(value));
            } else if self.take('°') {
                value = Expression::Degrees(Box::new(value));
            } else if self.take('\'') {
                value = primed(value)?;
            } else if self.is_sign('_') {
                value = self.subscript(value)?;
            } else {
                return Ok(value);
            }
        }
    }

    /// What `^` raises to: a braced expression, or one token with a sign and a power of its own (`2^-1`, `2^2^3`).
    fn exponent(&mut self) -> Parsed {
        if self.take('-') {
            return Ok(Expression::Negative(Box::new(self.nested(Self::exponent)?)));
        }
        let value = self.argument()?;
        if self.take('^') {
            let exponent = self.nested(Self::exponent)?;
            return Ok(Expression::Power(Box::new([value, exponent])));
        }
        Ok(value)
    }

    /// Steps over `{sign}` if it stands here.
    fn is_braced(&mut self, sign: char) -> bool {
        let braced = [Token::Sign('{'), Token::Sign(sign), Token::Sign('}')];
        let found = self.tokens[self.at..].starts_with(&braced);
        self.at += if found { 3 } else { 0 };
        found
    }

    /// One argument of a command: a group in braces, or one token; of a number only its first digit.
    fn argument(&mut self) -> Parsed {
        self.nested(|parser| match parser.peek() {
            Some(Token::Sign('{')) => parser.group(),
            Some(
                Token::Number(_)
                | Token::Name(_)
                | Token::Constant(_)
                | Token::Command(_)
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
        let items = self.items(&[',', ';'])?;
        let mut content = one_or(items, Expression::List);
        if let Some(Token::Command(name @ ("choose" | "over"))) = self.peek() {
            self.at += 1;
            let lower = self.sum()?;
            content = match *name {
                "over" => Expression::Quotient(Box::new([content, lower])),
                _ => Expression::Call(Function::Binomial, vec![content, lower]),
            };
        }
        self.bars = bars;
        self.expect('}')?;
        Ok(content)
    }

    /// Puts a subscript to a name, or a base to digits.
    fn subscript(&mut self, value: Expression) -> Parsed {
        self.expect('_')?;
        let start = self.at;
        match value {
            Expression::Symbol(name) => {
                // Whatever the subscript is, it is only a name.
                self.skip_argument()?;
                let written: Vec<String> = self.tokens[start..self.at].iter().filter_map(written).collect();
                Ok(Expression::Symbol(format!("{name}_{}", written.concat())))
            }
            Expression::Number(number) => {
                let base = match self.argument()? {
                    Expression::Number(base) => base.value.to_i64().and_then(|base| u32::try_from(base).ok()),
                    _ => None,
                };
                let base = base.filter(|base| (2..=36).contains(base)).ok_or(Unreadable)?;
                if number.plain.is_empty() {
                    Err(Unreadable)
                } else {
                    Ok(Expression::Based(number.plain, base))
                }
            }
            Expression::Bracket(..) | Expression::Product(_) | Expression::Sum(_) => Err(Unreadable),
            _ => Err(Unreadable),
        }
    }

    /// Steps over a group or one token.
    fn skip_argument(&mut self) -> Result<(), Unreadable> {
        let mut open = 0usize;
        loop {
            match self.peek().ok_or(Unreadable)? {
                Token::Sign('{') => open += 1,
                Token::Sign('}') => open = open.checked_sub(1).ok_or(Unreadable)?,
                _ => {}
            }
            self.at += 1;
            if open == 0 {
                return Ok(());
            }
        }
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

/// Appends a factor that stands without a sign: `2\frac{1}{2}` and `2 1/2` are sums, `2 3` is nothing.
fn join_factor(factors: &mut Vec<Expression>, right: Expression) -> Result<(), Unreadable> {
    let last_is_whole = factors.last().is_some_and(is_whole);
    match right {
        Expression::Quotient(pair) if last_is_whole && pair.iter().all(is_mixed_part) => {
            let whole = factors.pop().ok_or(Unreadable)?;
            factors.push(Expression::Sum(vec![whole, Expression::Quotient(pair)]));
            Ok(())
        }
        Expression::Number(_) if !factors.is_empty() => Err(Unreadable),
        right => {
            factors.push(right);
            Ok(())
        }
    }
}

/// Whether this is an integer that was written as one.
fn is_whole(part: &Expression) -> bool {
    matches!(part, Expression::Number(number) if !number.plain.is_empty())
}

/// Whether this may be the numerator or denominator of a mixed number.
fn is_mixed_part(part: &Expression) -> bool {
    matches!(part, Expression::Number(number) if number.places.is_none() && number.value.to_i64().is_some())
}

fn primed(value: Expression) -> Parsed {
    match value {
        Expression::Symbol(name) => Ok(Expression::Symbol(name + "'")),
        _ => Err(Unreadable),
    }
}

/// How a token reads in a subscript.
fn written(token: &Token) -> Option<String> {
    match token {
        Token::Sign('{' | '}') => None,
        Token::Sign(sign) => Some(sign.to_string()),
        Token::Number(number) => Some(number.plain.clone()),
        Token::Name(name) | Token::Word(name) => Some(name.clone()),
        Token::Constant(Constant::E) => Some("e".to_string()),
        Token::Constant(Constant::I) => Some("i".to_string()),
        other => Some(format!("{other:?}")),
    }
}
