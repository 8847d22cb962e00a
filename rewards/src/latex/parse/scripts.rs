//! What is attached to a value: powers, subscripts, primes, factorials, percent and degree signs.

use super::{Parsed, Parser};
use crate::latex::expression::{Constant, Expression, Function};
use crate::latex::lexer::{Token, Unreadable};

impl Parser<'_> {
    /// A value with everything that is attached to it.
    pub(super) fn power(&mut self) -> Parsed {
        let mut value = self.atom()?;
        loop {
            if self.take('^') {
                if self.take('°') || self.is_braced('°') {
                    value = self.degrees(value);
                    continue;
                }
                if let Some(mark) = self.raised_mark() {
                    value = marked(value, mark)?;
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
                // TeX refuses a second superscript; the first is meant to be a base of its own here.
                self.loose |= matches!(value, Expression::Power(_));
                value = Expression::Power(Box::new([value, exponent]));
            } else if self.take('!') {
                value = Expression::Call(Function::Factorial, vec![value]);
            } else if self.take('%') {
                value = Expression::Percent(Box::new(value));
            } else if self.take('°') {
                value = self.degrees(value);
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
    pub(super) fn exponent(&mut self) -> Parsed {
        if self.take('-') {
            return Ok(Expression::Negative(Box::new(self.nested(Self::exponent)?)));
        }
        let value = self.argument()?;
        if self.take('^') {
            self.loose = true;
            let exponent = self.nested(Self::exponent)?;
            return Ok(Expression::Power(Box::new([value, exponent])));
        }
        Ok(value)
    }

    /// Steps over a mark that is raised: `x^*`, `\mathbb{R}^{+}`.
    fn raised_mark(&mut self) -> Option<&'static str> {
        let mark = |token: &Token| match token {
            Token::Sign('+') => Some("^+"),
            Token::Sign('*') => Some("^*"),
            Token::Binary("dagger") => Some("^dagger"),
            _ => None,
        };
        let (found, length) = match &self.tokens[self.at..] {
            [Token::Sign('{'), token, Token::Sign('}'), ..] => (mark(token)?, 3),
            [token, ..] => (mark(token)?, 1),
            [] => return None,
        };
        self.at += length;
        Some(found)
    }

    /// Steps over `{sign}` if it stands here.
    fn is_braced(&mut self, sign: char) -> bool {
        let braced = [Token::Sign('{'), Token::Sign(sign), Token::Sign('}')];
        let found = self.tokens[self.at..].starts_with(&braced);
        self.at += if found { 3 } else { 0 };
        found
    }

    /// Puts a subscript to a name, or a base to digits.
    fn subscript(&mut self, value: Expression) -> Parsed {
        self.expect('_')?;
        if let Expression::Number(number) = value {
            let base = match self.argument()? {
                Expression::Number(base) => base.value.to_i64().and_then(|base| u32::try_from(base).ok()),
                _ => None,
            };
            let base = base.filter(|base| (2..=36).contains(base)).ok_or(Unreadable)?;
            let is_digits = !number.plain.is_empty();
            return if is_digits { Ok(Expression::Based(number.plain, base)) } else { Err(Unreadable) };
        }
        // Whatever the subscript is, it is only a name.
        let subscript = self.written_argument()?;
        let named = |name: &str| Expression::Symbol(format!("{name}_{subscript}"));
        Ok(match value {
            Expression::Symbol(name) => named(&name),
            Expression::Constant(Constant::E) => named("e"),
            Expression::Constant(Constant::I) => named("i"),
            Expression::Constant(Constant::Pi) => named("pi"),
            Expression::Unknown(name, parts) => Expression::Unknown(format!("{name}_{subscript}"), parts),
            Expression::Bracket(..) | Expression::Product(_) | Expression::Sum(_) => {
                Expression::Unknown(format!("_{subscript}"), vec![value])
            }
            _ => return Err(Unreadable),
        })
    }

    /// Steps over a group or one token and gives it as it reads.
    fn written_argument(&mut self) -> Result<String, Unreadable> {
        let start = self.at;
        self.skip_argument()?;
        let written: String = self.tokens[start..self.at].iter().filter_map(written).collect();
        if written.is_empty() { Err(Unreadable) } else { Ok(written) }
    }

    /// Steps over a group or one token. Brackets in a group balance.
    pub(super) fn skip_argument(&mut self) -> Result<(), Unreadable> {
        if !self.is_sign('{') {
            let is_single = !matches!(
                self.peek().ok_or(Unreadable)?,
                Token::Sign(
                    '}' | '(' | ')' | '[' | ']' | '^' | '_' | '&' | '|' | ',' | ';' | '\n' | '⦃' | '⦄'
                ) | Token::Begin(_)
                    | Token::End(_)
            );
            self.at += 1;
            return if is_single { Ok(()) } else { Err(Unreadable) };
        }
        let mut open = Vec::new();
        loop {
            let token = self.peek().ok_or(Unreadable)?;
            self.at += 1;
            match token {
                Token::Sign(sign @ ('{' | '(' | '[' | '⦃')) => open.push(*sign),
                Token::Sign('}') if open.pop() != Some('{') => return Err(Unreadable),
                Token::Sign('⦄') if open.pop() != Some('⦃') => return Err(Unreadable),
                Token::Sign(')' | ']') if !matches!(open.pop(), Some('(' | '[')) => return Err(Unreadable),
                _ => {}
            }
            if open.is_empty() {
                return Ok(());
            }
        }
    }
}

fn primed(value: Expression) -> Parsed {
    marked(value, "'")
}

/// A name with a mark behind it.
fn marked(value: Expression, mark: &str) -> Parsed {
    match value {
        Expression::Symbol(name) => Ok(Expression::Symbol(name + mark)),
        Expression::Unknown(name, parts) => Ok(Expression::Unknown(name + mark, parts)),
        _ => Err(Unreadable),
    }
}

/// How a token reads in a subscript.
pub(super) fn written(token: &Token) -> Option<String> {
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
