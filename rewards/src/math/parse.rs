//! Reads tokens into an [`Expression`] by recursive descent. Depth and size are bounded, so hostile nesting is an
//! error and not an overflow. Binding, from the loosest: `;` and `,` lists, relations, unions, proportions, sums,
//! products (also without a sign), powers and what stands behind a value (`!`, `%`, `°`, units).

use crate::math::expression::{Constant, Expression, Function, Relation};
use crate::math::lexer::{Token, Unreadable, lex};
use crate::math::unit::Unit;

/// Levels of nesting. Written mathematics stays under ten; each level takes some ten frames of the stack.
const DEPTH_MAX: usize = 64;

/// The expression that a text is. With `thousands` a comma before three digits joins `1,234` to one number.
pub(super) fn parse(text: &str, thousands: bool) -> Result<Expression, Unreadable> {
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
            Some(Token::Number(_) | Token::Name(_) | Token::Constant(_) | Token::Command(_) | Token::Function(_)) => {
                parser.atom()
            }
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
                if number.plain.is_empty() { Err(Unreadable) } else { Ok(Expression::Based(number.plain, base)) }
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

    fn atom(&mut self) -> Parsed {
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
                Some(Token::Number(_) | Token::Name(_) | Token::Constant(_) | Token::Command(_) | Token::Sign('{')) => true,
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
        self.bars += 1;
        let inner = self.sum();
        self.bars -= 1;
        self.expect('|')?;
        Ok(Expression::Call(Function::Absolute, vec![inner?]))
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
        Expression::Number(_) => Err(Unreadable),
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
