//! What the grammar's rules end in: numbers, names, functions with their arguments, brackets, sets, matrices.

use super::scripts::written;
use super::{Parsed, Parser, join_factor, one_or};
use crate::latex::expression::{Expression, Function, Number, Relation};
use crate::latex::lexer::{Token, Unreadable};
use crate::latex::unit::Unit;

impl Parser<'_> {
    pub(super) fn atom(&mut self) -> Parsed {
        let token = self.peek().ok_or(Unreadable)?;
        match token {
            Token::Sign('{') => return self.nested(Self::group),
            Token::Sign('(' | '[' | '⟨') => return self.nested(Self::bracket),
            Token::Sign('⦃') => return self.nested(Self::set),
            Token::Sign('|') => return self.nested(Self::absolute),
            Token::Sign('⌊' | '⌈') => return self.nested(Self::rounded),
            Token::Sign('_' | '^') => return self.nested(Self::combinations),
            _ => self.at += 1,
        }
        match token {
            Token::Number(number) => Ok(self.mixed(number)),
            Token::Based(digits, base) => Ok(Expression::Based(digits.clone(), *base)),
            Token::Operator(name) => self.nested(|parser| parser.operator(name)),
            Token::Accent(name) => self.nested(|parser| parser.accent(name)),
            Token::Name(name) => self.name(name),
            Token::Constant(constant) => Ok(Expression::Constant(*constant)),
            Token::Function(function) => self.nested(|parser| parser.call(*function)),
            Token::Word(word) => self.words(word),
            Token::Begin(environment) => self.nested(|parser| parser.environment(environment)),
            Token::Command(name) => self.nested(|parser| parser.command(name)),
            _ => Err(Unreadable),
        }
    }

    /// A number, with the fraction behind it if it is a mixed one: `2\frac{1}{2}`, `2 1/2`.
    fn mixed(&mut self, number: &Number) -> Expression {
        let whole = Expression::Number(number.clone());
        match self.plain_fraction().filter(|_| !number.plain.is_empty()) {
            Some((fraction, length)) => {
                self.at += length;
                Expression::Sum(vec![whole, fraction])
            }
            None => whole,
        }
    }

    /// The fraction of two whole numbers that stands here, and its tokens.
    fn plain_fraction(&self) -> Option<(Expression, usize)> {
        let (top, bottom, length) = match &self.tokens[self.at..] {
            [Token::Number(top), Token::Sign('/'), Token::Number(bottom), ..] => {
                (plain_whole(top)?, plain_whole(bottom)?, 3)
            }
            [Token::Command("frac"), Token::Number(both), ..] if both.plain.len() == 2 => {
                let digit = |at: usize| Some(i64::from(both.plain.as_bytes().get(at)? - b'0'));
                (Expression::whole(digit(0)?), Expression::whole(digit(1)?), 2)
            }
            [Token::Command("frac"), behind @ ..] => {
                let (top, first) = plain_argument(behind)?;
                let (bottom, second) = plain_argument(&behind[first..])?;
                (top, bottom, 1 + first + second)
            }
            _ => return None,
        };
        Some((Expression::Quotient(Box::new([top, bottom])), length))
    }

    /// `\sum`, `\lim` and the like with their scripts and what they act on, known by its name.
    fn operator(&mut self, name: &str) -> Parsed {
        let mut name = name.to_string();
        while self.is_sign('_') || self.is_sign('^') {
            let start = self.at;
            self.at += 1;
            self.skip_argument()?;
            name.extend(self.tokens[start..self.at].iter().filter_map(written));
        }
        let body = self.product()?;
        Ok(Expression::Unknown(name, vec![body]))
    }

    /// A mark on its argument. A bar or arc over a segment's letters and the arrow over a vector's name say nothing
    /// about equality; other marks make another value.
    fn accent(&mut self, name: &str) -> Parsed {
        let put = match self.peek() {
            Some(Token::Word(put)) if matches!(name, "overset" | "underset" | "stackrel") => {
                self.at += 1;
                put.as_str()
            }
            _ => "",
        };
        const SILENT: [&str; 13] = [
            "overline",
            "overrightarrow",
            "overleftrightarrow",
            "vec",
            "hat",
            "bar",
            "tilde",
            "widehat",
            "overparen",
            "wideparen",
            "overarc",
            r"\frown",
            r"\rightarrow",
        ];
        let is_silent = SILENT.contains(&name) || SILENT.contains(&put);
        let is_brace = matches!(name, "underbrace" | "overbrace");
        match self.argument()? {
            // What a brace is labelled with says nothing, unless it counts what dots leave out.
            whole if is_brace && !whole.any(&|part| *part == Expression::Symbol("dots".to_string())) => {
                if self.take('_') || self.take('^') {
                    self.skip_argument()?;
                }
                Ok(whole)
            }
            letters @ (Expression::Symbol(_) | Expression::Product(_)) if is_silent => Ok(letters),
            other => Ok(Expression::Unknown(format!("{name} {put}"), vec![other])),
        }
    }

    /// A variable, or an unknown function with its arguments.
    fn name(&mut self, name: &str) -> Parsed {
        let mut name = name.to_string();
        while self.take('\'') {
            name.push('\'');
        }
        if matches!(name.trim_end_matches('\''), "f" | "g" | "h") && self.is_sign('(') {
            let arguments = match self.nested(Self::bracket)? {
                Expression::Bracket(_, items, _) => items,
                single => vec![single],
            };
            return Ok(Expression::Unknown(name, arguments));
        }
        if name == "C"
            && let [Token::Sign('('), top, Token::Sign(','), bottom, Token::Sign(')'), ..] =
                &self.tokens[self.at..]
            && let (Some(top), Some(bottom)) = (letter_or_number(top), letter_or_number(bottom))
        {
            // `C(n, 2)` chooses 2 of n.
            self.at += 5;
            return Ok(Expression::Call(Function::Binomial, vec![top, bottom]));
        }
        Ok(Expression::Symbol(name))
    }

    /// Words in a row: a currency before its amount, or text.
    fn words(&mut self, first: &str) -> Parsed {
        let is_currency =
            matches!(first, "dollar" | "euro" | "sterling" | "yen" | "rupee" | "USD" | "EUR" | "Rs");
        if is_currency && (self.begins_value() || self.is_sign('-')) {
            let mut amount = self.factor()?;
            if let [Token::Sign('/'), Token::Number(_), ..] = self.tokens[self.at..] {
                self.at += 1;
                amount = Expression::Quotient(Box::new([amount, self.factor()?]));
            }
            let amount = self.scaled(amount);
            return Ok(Expression::Measure(Box::new(amount), Unit::named(first)));
        }
        // A sign of currency without an amount says nothing.
        self.loose |= is_currency;
        let mut words = vec![first.to_lowercase()];
        while let Some(Token::Word(word)) = self.peek() {
            words.push(word.to_lowercase());
            self.at += 1;
        }
        Ok(Expression::Text(words.join(" ")))
    }

    fn command(&mut self, name: &str) -> Parsed {
        match name {
            "frac" => {
                let (top, bottom) = self.two_arguments()?;
                Ok(Expression::Quotient(Box::new([top, bottom])))
            }
            "binom" => {
                let (top, bottom) = self.two_arguments()?;
                Ok(Expression::Call(Function::Binomial, vec![top, bottom]))
            }
            "cbrt" => {
                let radicand = self.argument()?;
                Ok(Expression::Root(Box::new([Expression::whole(3), radicand])))
            }
            "sqrt" => {
                let degree = match self.is_sign('[') {
                    true => {
                        self.at += 1;
                        let degree = self.sum()?;
                        self.expect(']')?;
                        degree
                    }
                    false => Expression::whole(2),
                };
                let radicand = match self.peek() {
                    Some(Token::Sign('(' | '{')) => self.atom()?,
                    _ => self.argument()?,
                };
                Ok(Expression::Root(Box::new([degree, radicand])))
            }
            "emptyset" => Ok(Expression::Set(Vec::new())),
            _ => Err(Unreadable),
        }
    }

    /// `{}_{10}C_3` and `^{10}C_3`.
    fn combinations(&mut self) -> Parsed {
        self.at += 1;
        let upper = self.argument()?;
        match self.tokens[self.at..] {
            [Token::Name(ref name), Token::Sign('_'), ..] if name == "C" => self.at += 2,
            _ => return Err(Unreadable),
        }
        Ok(Expression::Call(Function::Binomial, vec![upper, self.argument()?]))
    }

    /// Two arguments. Without braces they are one digit each, and `\frac12` has both in one number.
    fn two_arguments(&mut self) -> Result<(Expression, Expression), Unreadable> {
        if let Some(Token::Number(number)) = self.peek() {
            let digits: Vec<i64> = number.plain.bytes().map(|byte| i64::from(byte - b'0')).collect();
            match digits[..] {
                [top, bottom] => {
                    self.at += 1;
                    return Ok((Expression::whole(top), Expression::whole(bottom)));
                }
                // `\frac{1}{2}` and `\frac1{23}` are read as arguments.
                [_] => {}
                _ => return Err(Unreadable),
            }
        }
        let top = self.argument()?;
        Ok((top, self.argument()?))
    }

    /// A function with what it is applied to: `\sin x`, `\sin^2 2x`, `\log_2(8)`.
    fn call(&mut self, function: Function) -> Parsed {
        if matches!(function, Function::Min | Function::Max) && self.is_sign('_') {
            return self.operator(if function == Function::Min { "min" } else { "max" });
        }
        let base = if function == Function::Log && self.take('_') { Some(self.argument()?) } else { None };
        let power = if self.take('^') { Some(self.nested(Self::exponent)?) } else { None };
        let is_variadic =
            matches!(function, Function::Min | Function::Max | Function::Gcd | Function::Lcm | Function::Log);
        let arguments = match self.peek() {
            Some(Token::Sign('(' | '[')) => match self.nested(Self::bracket)? {
                Expression::Bracket('(', items, ')') => items,
                single => vec![self.attached(single)?],
            },
            Some(Token::Sign('⦃')) if is_variadic => match self.nested(Self::set)? {
                Expression::Set(items) => items,
                condition => vec![condition],
            },
            _ => vec![self.bare_argument()?],
        };
        if arguments.len() != 1 && !is_variadic || function == Function::Log && arguments.len() != 1 {
            return Err(Unreadable);
        }
        let arguments = base.into_iter().chain(arguments).collect();
        match power {
            Some(power) if is_minus_one(&power) => inverse(function, arguments),
            Some(power) => Ok(Expression::Power(Box::new([Expression::Call(function, arguments), power]))),
            None => Ok(Expression::Call(function, arguments)),
        }
    }

    /// A degree sign behind the bracket of an argument belongs to the argument.
    fn attached(&mut self, value: Expression) -> Parsed {
        if self.take('°') {
            return Ok(Expression::Degrees(Box::new(value)));
        }
        Ok(value)
    }

    /// An argument without brackets: numbers, names, constants, fractions and roots in a row.
    fn bare_argument(&mut self) -> Parsed {
        let negative = self.take('-');
        let mut factors = Vec::new();
        loop {
            let continues = match self.peek() {
                Some(
                    Token::Number(_)
                    | Token::Name(_)
                    | Token::Constant(_)
                    | Token::Command(_)
                    | Token::Accent(_)
                    | Token::Sign('{'),
                ) => !matches!(self.peek(), Some(Token::Command("pmod" | "choose" | "over"))),
                Some(Token::Function(_)) | Some(Token::Sign('|')) => factors.is_empty(),
                _ => false,
            };
            if !continues {
                break;
            }
            let is_number = matches!(self.peek(), Some(Token::Number(_)));
            let factor = self.nested(Self::power)?;
            if is_number && !factors.is_empty() {
                return Err(Unreadable);
            }
            join_factor(&mut factors, factor);
        }
        if factors.is_empty() {
            return Err(Unreadable);
        }
        // `\sin \pi/2` is meant to be one quarter turn.
        if self.is_sign('/') && matches!(self.tokens.get(self.at + 1), Some(Token::Number(_))) {
            self.at += 1;
            let bottom = self.nested(Self::power)?;
            factors = vec![Expression::Quotient(Box::new([one_or(factors, Expression::Product), bottom]))];
        }
        let value = one_or(factors, Expression::Product);
        Ok(if negative { Expression::Negative(Box::new(value)) } else { value })
    }

    /// Round, square or angle brackets: a group, a tuple or an interval.
    fn bracket(&mut self) -> Parsed {
        let Some(Token::Sign(open)) = self.peek() else { return Err(Unreadable) };
        self.at += 1;
        let bars = std::mem::take(&mut self.bars);
        let items = self.items(&[',', ';'])?;
        self.bars = bars;
        let Some(Token::Sign(close @ (')' | ']' | '⟩'))) = self.peek() else { return Err(Unreadable) };
        self.at += 1;
        // A vector in angle brackets is a tuple.
        let (open, close) = if *open == '⟨' && *close == '⟩' { ('(', ')') } else { (*open, *close) };
        match (items.len(), open, close) {
            (1, '(', ')') | (1, '[', ']') => Ok(one_or(items, Expression::List)),
            (1, ..) => Err(Unreadable),
            _ => Ok(Expression::Bracket(open, items, close)),
        }
    }

    /// `{a, b}`, and `{x | condition}`, of which only the condition counts.
    fn set(&mut self) -> Parsed {
        self.expect('⦃')?;
        if self.take('⦄') {
            return Ok(Expression::Set(Vec::new()));
        }
        if matches!(self.peek(), Some(Token::Begin(_))) {
            return self.braced_system();
        }
        let named = match self.tokens[self.at..] {
            [Token::Name(_), Token::Sign(':'), ..] => 2,
            [Token::Name(_), Token::Relation(Relation::Element), Token::Name(_), Token::Sign(':'), ..] => 4,
            _ => 0,
        };
        if named > 0 {
            self.at += named;
            return self.set_condition();
        }
        let bars = std::mem::replace(&mut self.bars, 1);
        let items = self.items(&[',', ';'])?;
        self.bars = bars;
        if self.take('⦄') {
            return Ok(Expression::Set(match <[Expression; 1]>::try_from(items) {
                Ok([Expression::And(parts) | Expression::Or(parts)]) => parts,
                Ok(single) => single.into(),
                Err(several) => several,
            }));
        }
        let is_name = match &items[..] {
            [Expression::Symbol(_)] => true,
            [Expression::Chain(members, relations)] => {
                relations[..] == [Relation::Element]
                    && members.iter().all(|member| matches!(member, Expression::Symbol(_)))
            }
            _ => false,
        };
        if self.take('|') || self.take(':') {
            let name = one_or(items, Expression::List);
            let condition = self.set_condition()?;
            // What is not a name alone makes a set that is only known by how it is written.
            return Ok(if is_name {
                condition
            } else {
                Expression::Unknown("set".to_string(), vec![name, condition])
            });
        }
        Err(Unreadable)
    }

    /// The condition of `{x | condition}` and the closing bracket.
    fn set_condition(&mut self) -> Parsed {
        let condition = self.list()?;
        self.expect('⦄')?;
        let says_something = !matches!(condition, Expression::Symbol(_) | Expression::Number(_));
        if says_something { Ok(condition) } else { Err(Unreadable) }
    }

    fn absolute(&mut self) -> Parsed {
        self.expect('|')?;
        let bars = self.bars;
        self.bars += 1;
        let inner = self.union()?;
        self.bars = bars;
        self.expect('|')?;
        Ok(Expression::Call(Function::Absolute, vec![inner]))
    }

    fn rounded(&mut self) -> Parsed {
        let is_floor = self.take('⌊');
        self.at += usize::from(!is_floor);
        let inner = self.sum()?;
        self.expect(if is_floor { '⌋' } else { '⌉' })?;
        Ok(Expression::Call(if is_floor { Function::Floor } else { Function::Ceiling }, vec![inner]))
    }
}

/// A whole number as a part of a fraction.
fn plain_whole(number: &Number) -> Option<Expression> {
    let is_whole = !number.plain.is_empty() && number.value.to_i64().is_some();
    is_whole.then(|| Expression::Number(number.clone()))
}

/// A whole number in braces, or one digit without them, and the tokens that it takes.
fn plain_argument(tokens: &[Token]) -> Option<(Expression, usize)> {
    match tokens {
        [Token::Sign('{'), Token::Number(number), Token::Sign('}'), ..] => Some((plain_whole(number)?, 3)),
        [Token::Number(number), ..] if number.plain.len() == 1 => Some((plain_whole(number)?, 1)),
        _ => None,
    }
}

fn is_minus_one(value: &Expression) -> bool {
    matches!(value, Expression::Negative(inner) if matches!(&**inner, Expression::Number(number) if number.plain == "1"))
}

/// `\sin^{-1}` is the inverse function and not one over the sine.
fn inverse(function: Function, arguments: Vec<Expression>) -> Parsed {
    let inverse = match function {
        Function::Sin => Function::Arcsin,
        Function::Cos => Function::Arccos,
        Function::Tan => Function::Arctan,
        _ => return Err(Unreadable),
    };
    Ok(Expression::Call(inverse, arguments))
}

fn letter_or_number(token: &Token) -> Option<Expression> {
    match token {
        Token::Number(number) => Some(Expression::Number(number.clone())),
        Token::Name(name) => Some(Expression::Symbol(name.clone())),
        _ => None,
    }
}
