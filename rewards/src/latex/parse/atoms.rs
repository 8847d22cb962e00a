//! What the grammar's rules end in: numbers, names, functions with their arguments, brackets, sets, matrices.

use super::{Parsed, Parser, join_factor, one_or};
use crate::latex::expression::{Expression, Function, Relation};
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
            _ => self.at += 1,
        }
        match token {
            Token::Number(number) => Ok(Expression::Number(number.clone())),
            Token::Name(name) => self.name(name),
            Token::Constant(constant) => Ok(Expression::Constant(*constant)),
            Token::Function(function) => self.nested(|parser| parser.call(*function)),
            Token::Word(word) => self.words(word),
            Token::Begin(environment) => self.nested(|parser| parser.matrix(environment)),
            Token::Command(name) => self.nested(|parser| parser.command(name)),
            _ => Err(Unreadable),
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
        Ok(Expression::Symbol(name))
    }

    /// Words in a row: a currency before its amount, or text.
    fn words(&mut self, first: &str) -> Parsed {
        let is_currency = matches!(first, "dollar" | "euro" | "sterling" | "yen" | "rupee");
        if is_currency && (self.begins_value() || self.is_sign('-')) {
            let amount = self.factor()?;
            return Ok(Expression::Measure(Box::new(amount), Unit::named(first)));
        }
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
                    Some(Token::Number(_)) => self.atom()?,
                    _ => self.argument()?,
                };
                Ok(Expression::Root(Box::new([degree, radicand])))
            }
            "accent" => match self.argument()? {
                // The bar over a segment's letters and the arrow over a vector's name say nothing about equality.
                name @ (Expression::Symbol(_) | Expression::Product(_)) => Ok(name),
                _ => Err(Unreadable),
            },
            "emptyset" => Ok(Expression::Set(Vec::new())),
            _ => Err(Unreadable),
        }
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
        let base = if function == Function::Log && self.take('_') { Some(self.argument()?) } else { None };
        let power = if self.take('^') { Some(self.nested(Self::exponent)?) } else { None };
        let arguments = match self.peek() {
            Some(Token::Sign('(')) => match self.nested(Self::bracket)? {
                Expression::Bracket('(', items, ')') => items,
                single => vec![self.attached(single)?],
            },
            _ => vec![self.bare_argument()?],
        };
        let is_variadic =
            matches!(function, Function::Min | Function::Max | Function::Gcd | Function::Lcm | Function::Log);
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
                    | Token::Sign('{'),
                ) => true,
                Some(Token::Function(_)) | Some(Token::Sign('|')) => factors.is_empty(),
                _ => false,
            };
            if !continues {
                break;
            }
            let factor = self.nested(Self::power)?;
            join_factor(&mut factors, factor)?;
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
        let mut items = self.items(&[',', ';'])?;
        self.bars = bars;
        let Some(Token::Sign(close @ (')' | ']' | '⟩'))) = self.peek() else { return Err(Unreadable) };
        self.at += 1;
        // A vector in angle brackets is a tuple.
        let (open, close) = if *open == '⟨' && *close == '⟩' { ('(', ')') } else { (*open, *close) };
        match (items.len(), open, close) {
            (1, '(', ')') | (1, '[', ']') => items.pop().ok_or(Unreadable),
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
        let bars = std::mem::replace(&mut self.bars, 1);
        let items = self.items(&[',', ';'])?;
        self.bars = bars;
        if self.take('⦄') {
            let is_builder = matches!(&items[..], [Expression::Proportion(parts)] if matches!(parts[..], [Expression::Symbol(_), _]));
            return if is_builder { Err(Unreadable) } else { Ok(Expression::Set(items)) };
        }
        let is_name = matches!(&items[..], [Expression::Symbol(_)])
            || matches!(&items[..], [Expression::Chain(members, relations)]
                if relations[..] == [Relation::Element] && members.iter().all(|member| matches!(member, Expression::Symbol(_))));
        if !is_name || !self.take('|') {
            return Err(Unreadable);
        }
        let condition = self.list()?;
        self.expect('⦄')?;
        Ok(condition)
    }

    fn absolute(&mut self) -> Parsed {
        self.expect('|')?;
        let bars = self.bars;
        self.bars += 1;
        let inner = self.sum()?;
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

    /// The rows of a matrix environment.
    fn matrix(&mut self, environment: &str) -> Parsed {
        match environment {
            "matrix" | "pmatrix" | "bmatrix" | "smallmatrix" => {}
            "array" => self.skip_argument()?,
            _ => return Err(Unreadable),
        }
        let mut rows = vec![Vec::new()];
        loop {
            match self.peek() {
                Some(Token::End(name)) if name == environment => {
                    self.at += 1;
                    break;
                }
                Some(Token::Sign('\n')) => {
                    self.at += 1;
                    rows.push(Vec::new());
                }
                Some(Token::Sign('&')) => self.at += 1,
                _ => {
                    let cell = self.sum()?;
                    rows.last_mut().ok_or(Unreadable)?.push(cell);
                }
            }
        }
        rows.retain(|row| !row.is_empty());
        let width = rows.first().ok_or(Unreadable)?.len();
        if rows.iter().all(|row| row.len() == width) { Ok(Expression::Matrix(rows)) } else { Err(Unreadable) }
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
