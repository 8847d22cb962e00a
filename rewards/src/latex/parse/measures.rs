//! What stands behind a value and measures it: units and their fractions, large numbers in words, degrees.

use super::{Parsed, Parser, one_or};
use crate::latex::expression::{Expression, Number};
use crate::latex::lexer::{Token, Unreadable};
use crate::latex::qualifier::qualifies;
use crate::latex::ratio::Ratio;
use crate::latex::unit::{Unit, scale};

/// A unit that is being read.
struct Building {
    unit: Unit,
    divides: bool,
    power: i64,
    /// The last unit that was read, with its power.
    last: Option<Unit>,
}

impl Building {
    /// Multiplies with the last unit some more times: `second squared`.
    fn raise(&mut self, times: usize) -> Result<(), Unreadable> {
        let last = self.last.take().ok_or(Unreadable)?;
        for _ in 0..times {
            self.unit = self.unit.times(&last).ok_or(Unreadable)?;
        }
        Ok(())
    }
}

impl Parser<'_> {
    /// The unit behind a value, if there is one.
    pub(super) fn measure(&mut self, value: Expression) -> Parsed {
        if matches!(value, Expression::Text(_)) {
            return Ok(value);
        }
        let value = self.scaled(value);
        let begins =
            matches!(self.peek(), Some(Token::Word(_))) || self.is_unit_fraction() || self.is_braced_unit();
        if !begins {
            return Ok(value);
        }
        let mut building = Building { unit: Unit::none(), divides: false, power: 1, last: None };
        let mut braces = 0;
        loop {
            match self.peek() {
                Some(Token::Word(word)) => {
                    self.at += 1;
                    self.unit_word(word, &mut building)?;
                }
                Some(Token::Sign(sign @ ('/' | '*')))
                    if matches!(self.tokens.get(self.at + 1), Some(Token::Word(_))) =>
                {
                    self.at += 1;
                    building.divides |= *sign == '/';
                }
                Some(Token::Command("frac")) if self.is_unit_fraction() => {
                    self.unit_fraction(&mut building)?
                }
                Some(Token::Sign('{')) if self.is_braced_unit() => {
                    self.at += 1;
                    braces += 1;
                }
                Some(Token::Sign('}')) if braces > 0 => {
                    self.at += 1;
                    braces -= 1;
                }
                _ if braces > 0 => return Err(Unreadable),
                _ => return Ok(self.compound(value, building.unit)),
            }
        }
    }

    /// `5 ft 6 in`: a measure with its remainders in smaller units, as one measure in the largest one.
    fn compound(&mut self, value: Expression, unit: Unit) -> Expression {
        const REMAINDERS_MAX: usize = 3;
        let mut terms = vec![value];
        while let [Token::Number(number), Token::Word(word), ..] = &self.tokens[self.at..] {
            let factor = Unit::named(word).factor_to(&unit).filter(|factor| *factor < Ratio::whole(1));
            let Some(factor) = factor.filter(|_| terms.len() <= REMAINDERS_MAX) else { break };
            self.at += 2;
            let factor = Number { value: factor, places: None, digits: 0, plain: String::new() };
            let factors = vec![Expression::Number(factor), Expression::Number(number.clone())];
            terms.push(Expression::Product(factors));
        }
        Expression::Measure(Box::new(one_or(terms, Expression::Sum)), unit)
    }

    /// A value times the large numbers behind it.
    pub(super) fn scaled(&mut self, mut value: Expression) -> Expression {
        while let Some(Token::Word(word)) = self.peek() {
            let Some(factor) = scale(word) else { break };
            self.at += 1;
            value = Expression::Product(vec![value, Expression::whole(factor)]);
        }
        value
    }

    /// One word of a unit and its power.
    fn unit_word(&mut self, word: &str, building: &mut Building) -> Result<(), Unreadable> {
        match word.to_lowercase().as_str() {
            "per" => building.divides = true,
            "square" | "sq" => building.power = 2,
            "cubic" | "cu" => building.power = 3,
            // These say nothing, and neither do pronouns of what is counted.
            "of" | "the" | "a" | "an" | "each" | "total" => {}
            "squared" if building.last.as_ref().is_some_and(Unit::is_physical) => building.raise(1)?,
            "cubed" if building.last.as_ref().is_some_and(Unit::is_physical) => building.raise(2)?,
            // What is said about a number is not what it counts.
            word if qualifies(word) => return Err(Unreadable),
            "times" if matches!(self.peek(), Some(Token::Word(_))) => return Err(Unreadable),
            _ => {
                let exponent = self.unit_exponent()? * building.power * if building.divides { -1 } else { 1 };
                let factor = Unit::named(word).power(exponent).ok_or(Unreadable)?;
                building.unit = building.unit.times(&factor).ok_or(Unreadable)?;
                building.power = 1;
                building.last = Some(factor);
            }
        }
        Ok(())
    }

    /// The power of a unit: `cm^2`, `cm^{2}`, `s^{-1}`, `s^-1`.
    fn unit_exponent(&mut self) -> Result<i64, Unreadable> {
        if !self.take('^') {
            return Ok(1);
        }
        let sign = if self.take('-') { -1 } else { 1 };
        let whole = |value: &Expression| match value {
            Expression::Number(number) => number.value.to_i64().filter(|power| (-9..=9).contains(power)),
            _ => None,
        };
        let power = match self.argument()? {
            Expression::Negative(inner) => whole(&inner).map(|power| -power),
            value => whole(&value),
        };
        power.map(|power| sign * power).ok_or(Unreadable)
    }

    /// Whether a fraction of units stands here: `\frac{\text{m}}{\text{s}^2}`.
    pub(super) fn is_unit_fraction(&self) -> bool {
        matches!(self.tokens[self.at..], [Token::Command("frac"), Token::Sign('{'), Token::Word(_), ..])
    }

    fn unit_fraction(&mut self, building: &mut Building) -> Result<(), Unreadable> {
        self.at += 1;
        for divides in [false, true] {
            self.expect('{')?;
            building.divides = divides;
            while !self.take('}') {
                match self.peek() {
                    Some(Token::Word(word)) => {
                        self.at += 1;
                        self.unit_word(word, building)?;
                    }
                    Some(Token::Sign('*')) => self.at += 1,
                    _ => return Err(Unreadable),
                }
            }
        }
        building.divides = false;
        Ok(())
    }

    /// Whether a unit in braces stands here: `{\rm cm}`.
    pub(super) fn is_braced_unit(&self) -> bool {
        matches!(&self.tokens[self.at..], [Token::Sign('{'), Token::Word(word), ..] if Unit::is_known(word))
    }

    /// A value in degrees, of temperature if a scale is named.
    pub(super) fn degrees(&mut self, value: Expression) -> Expression {
        let scale = match self.peek() {
            Some(Token::Name(name) | Token::Word(name)) => match name.to_lowercase().as_str() {
                "c" | "celsius" | "centigrade" => Some("celsius"),
                "f" | "fahrenheit" => Some("fahrenheit"),
                _ => None,
            },
            _ => None,
        };
        let is_letter = matches!(self.peek(), Some(Token::Name(_)));
        let goes_on = matches!(
            self.tokens.get(self.at + 1),
            Some(Token::Name(_) | Token::Number(_) | Token::Sign('^' | '_' | '(' | '\''))
        );
        match scale {
            Some(scale) if !(is_letter && goes_on) => {
                self.at += 1;
                Expression::Measure(Box::new(value), Unit::named(scale))
            }
            _ => Expression::Degrees(Box::new(value)),
        }
    }
}
