//! Cuts LaTeX and plain mathematics into tokens, in one pass. What only sets type (`\left`, `\displaystyle`, `\color`,
//! spaces) is gone afterwards; what is not mathematics is an error, and such an answer is compared as text.

mod arguments;
mod commands;
mod numbers;
mod words;

use crate::latex::expression::{Constant, Function, Number, Relation};
use crate::latex::unit::{Unit, scale};

use commands::Meaning;
use words::{day_half, letter, plain_word};

/// More tokens than this are no final answer. A list of a thousand numbers fits.
const TOKENS_MAX: usize = 4096;

/// Text commands inside each other.
const TEXT_DEPTH_MAX: usize = 64;

/// Letters in a row that still are a product of variables; a longer run is a word.
const VARIABLES_MAX: usize = 3;

/// Capitals in a row that still are the corners of a figure.
const CAPITALS_MAX: usize = 8;

/// What the parser reads.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Number(Number),
    /// Digits with letters among them, and their base: `2A_{16}`.
    Based(String, u32),
    /// A letter, also a Greek one by its command's name.
    Name(String),
    /// A word that is marked as text, or too long to be a product of variables.
    Word(String),
    Function(Function),
    /// `\sum`, `\lim`, `\det`, `\neg` and others that are not evaluated.
    Operator(&'static str),
    Constant(Constant),
    Relation(Relation),
    /// `\frac`, `\binom`, `\sqrt` and other commands whose arguments the parser reads.
    Command(&'static str),
    /// A mark over, under or across an argument.
    Accent(&'static str),
    /// An operation between two values that is not evaluated: `\oplus`.
    Binary(&'static str),
    /// `\bmod`, `\mod`, `mod`.
    Modulo,
    /// Beginning and end of an environment.
    Begin(String),
    End(String),
    And,
    Or,
    /// Brackets and operators. Curly brackets that are shown are `⦃` and `⦄`, a new row is `\n`.
    Sign(char),
}

/// The text is not mathematics that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// What a text was cut into.
pub(super) struct Lexed {
    pub(super) tokens: Vec<Token>,
    /// Whether something was let pass that no one would typeset so: words that are not marked as text.
    pub(super) loose: bool,
}

/// The tokens of a text. With `thousands` a comma before three digits joins `1,234` to one number.
pub(super) fn lex(text: &str, thousands: bool) -> Result<Lexed, Unreadable> {
    let tokens = Vec::with_capacity(16);
    let mut lexer =
        Lexer { text, at: 0, thousands, tokens, loose: false, negates: false, upright: Vec::new() };
    while lexer.at < text.len() {
        lexer.step()?;
        if lexer.tokens.len() > TOKENS_MAX {
            return Err(Unreadable);
        }
    }
    Ok(Lexed { tokens: lexer.tokens, loose: lexer.loose })
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    thousands: bool,
    tokens: Vec<Token>,
    loose: bool,
    /// Whether a relation behind `\not` is being read.
    negates: bool,
    /// Where the text commands end that stand around, the innermost last. Their braces are no tokens.
    upright: Vec<usize>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn sign(&mut self, sign: char) {
        self.tokens.push(Token::Sign(sign));
    }

    /// Reads one token, or skips what is none.
    fn step(&mut self) -> Result<(), Unreadable> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(()) };
        if self.upright.last() == Some(&self.at) {
            self.upright.pop();
            self.at += 1;
            return Ok(());
        }
        if let Some(length) = self.based_number() {
            self.at += length;
            return Ok(());
        }
        let is_number = first.is_ascii_digit()
            || (first == '.' && rest[1..].starts_with(|next: char| next.is_ascii_digit()));
        if is_number {
            return self.number();
        }
        if first.is_alphabetic() && (first.is_ascii() || !self.upright.is_empty()) {
            return self.letters();
        }
        if first == '\\' {
            return self.command();
        }
        if let Some(token) = two_signs(rest) {
            self.at += 2;
            self.tokens.push(token);
            return Ok(());
        }
        if rest.starts_with("+/-") {
            self.at += 3;
            self.sign('±');
            return Ok(());
        }
        if rest.starts_with("...") {
            // Dots alone are the end of a sentence and no answer.
            if self.tokens.is_empty() {
                return Err(Unreadable);
            }
            self.at += 3;
            self.tokens.push(Token::Name("dots".to_string()));
            return Ok(());
        }
        // An empty group sets nothing, unless it is an argument.
        if rest.starts_with("{}") && !self.wants_argument() {
            self.at += 2;
            return Ok(());
        }
        // `a{=}b` has other spaces than `a=b`.
        if let Some(sign) = braced_sign(rest).filter(|_| !self.wants_argument()) {
            self.at += 3;
            return self.character(sign);
        }
        self.at += first.len_utf8();
        self.character(first)
    }

    /// Whether the last token takes what follows as its argument.
    fn wants_argument(&self) -> bool {
        matches!(
            self.tokens.last(),
            Some(Token::Sign('^' | '_' | '}') | Token::Command(_) | Token::Accent(_) | Token::Begin(_))
        )
    }

    fn character(&mut self, character: char) -> Result<(), Unreadable> {
        let scale = self.rest().strip_prefix(['C', 'F']);
        if character == '°' && scale.is_some_and(|after| !after.starts_with(char::is_alphabetic)) {
            let word = if self.rest().starts_with('C') { "celsius" } else { "fahrenheit" };
            self.at += 1;
            self.tokens.push(Token::Word(word.to_string()));
            return Ok(());
        }
        let token = match character {
            ' ' | '\t' | '\n' | '\r' | '~' | '$' => return Ok(()),
            '+' | '-' | '*' | '/' | '^' | '_' | '!' | '|' | ',' | ';' | ':' | '\'' | '&' | '%' | '('
            | ')' | '[' | ']' | '{' | '}' | '°' => Token::Sign(character),
            '=' => Token::Relation(Relation::Equal),
            '<' => Token::Relation(Relation::Less),
            '>' => Token::Relation(Relation::Greater),
            '€' => Token::Word("euro".to_string()),
            '£' => Token::Word("sterling".to_string()),
            '¥' => Token::Word("yen".to_string()),
            '₹' => Token::Word("rupee".to_string()),
            '¢' => Token::Word("cent".to_string()),
            // The full stop of an abbreviation inside text.
            '.' if !self.upright.is_empty() && matches!(self.tokens.last(), Some(Token::Word(_))) => {
                return Ok(());
            }
            _ => return Err(Unreadable),
        };
        self.tokens.push(token);
        Ok(())
    }

    /// A run of letters, in a text command or outside of any.
    fn letters(&mut self) -> Result<(), Unreadable> {
        let rest = self.rest();
        if let Some((half, length)) = day_half(rest, &self.tokens, !self.upright.is_empty()) {
            self.at += length;
            self.tokens.push(Token::Word(half.to_string()));
            return Ok(());
        }
        if !self.upright.is_empty() {
            return self.text_run();
        }
        let length = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let run = &rest[..length];
        self.at += length;
        if run == "not" {
            return Err(Unreadable);
        }
        let ends_value = self.follows_value();
        let is_unit_word = run == "per" && matches!(self.tokens.last(), Some(Token::Word(_)))
            || matches!(run, "sq" | "cu") && matches!(self.tokens.last(), Some(Token::Number(_)))
            || run == "in" && ends_value && self.rest().trim().is_empty()
            || self.is_speed(run);
        if is_unit_word || length == 1 && self.goes_on_unit() && Unit::is_known(run) {
            self.tokens.push(Token::Word(run.to_string()));
        } else if length == 1 && run.eq_ignore_ascii_case("x") && self.is_times_sign() {
            self.sign('*');
        } else if length == 1 {
            self.tokens.push(letter(run));
        } else if self.is_ordinal(run) {
            // `12th` is 12, and `the 12th prime` is another number.
            if self.names_next() {
                return Err(Unreadable);
            }
        } else if matches!(run, "min" | "sec") && ends_value && !self.goes_on_with_value() {
            self.tokens.push(Token::Word(run.to_string()));
        } else if matches!(run, "abs" | "floor" | "ceil") && !self.rest().trim_start().starts_with('(') {
            self.loose |= length > VARIABLES_MAX;
            self.tokens.extend(run.split("").filter(|letter| !letter.is_empty()).map(letter));
        } else if let Some(token) = plain_word(run) {
            self.loose |= matches!(token, Token::Word(_));
            self.tokens.push(token);
        } else if (ends_value || self.goes_on_unit()) && Unit::is_bare(run) {
            self.tokens.push(Token::Word(run.to_string()));
        } else if length > VARIABLES_MAX {
            let is_figure = length <= CAPITALS_MAX && run.bytes().all(|letter| letter.is_ascii_uppercase());
            self.loose |= !(is_figure || ends_value && (Unit::is_known(run) || scale(run).is_some()));
            self.tokens.push(Token::Word(run.to_string()));
        } else {
            self.tokens.extend(run.split("").filter(|letter| !letter.is_empty()).map(letter));
        }
        Ok(())
    }

    /// Whether the last tokens are a unit and what joins the next one to it.
    fn goes_on_unit(&self) -> bool {
        matches!(&self.tokens[..], [.., Token::Word(word)] if Unit::is_known(word))
            || matches!(self.tokens[..], [.., Token::Word(_), Token::Sign('/' | '*')])
            || matches!(
                self.tokens[..],
                [.., Token::Word(_), Token::Sign('^'), Token::Number(_), Token::Sign('/' | '*')]
            )
    }

    /// Whether the `x` that was just stepped over stands for the times sign of `6.02 x 10^{23}`.
    fn is_times_sign(&self) -> bool {
        let power = self.rest().trim_start().strip_prefix("10").map(str::trim_start);
        let is_power = power.is_some_and(|after| after.starts_with('^') || after.starts_with("**"));
        is_power && matches!(self.tokens.last(), Some(Token::Number(_)))
    }

    /// Whether an argument of a function stands behind the place.
    fn goes_on_with_value(&self) -> bool {
        let rest = self.rest().trim_start();
        rest.starts_with(|next: char| next.is_ascii_alphanumeric() || matches!(next, '(' | '{' | '\\' | '^'))
    }

    /// Whether these letters make the number before them an ordinal.
    fn is_ordinal(&self, run: &str) -> bool {
        let number = self.tokens.iter().rev().find(|token| !matches!(token, Token::Sign('^' | '{')));
        matches!(run, "st" | "nd" | "rd" | "th") && matches!(number, Some(Token::Number(_)))
    }

    /// Whether these letters begin `m/s` behind a number and a space.
    fn is_speed(&self, run: &str) -> bool {
        let ends = |rest: &str| !rest.starts_with(|next: char| next.is_alphanumeric());
        let has_gap = self.text[..self.at - run.len()].ends_with(' ');
        run == "m"
            && has_gap
            && self.rest().strip_prefix("/s").is_some_and(ends)
            && matches!(self.tokens.last(), Some(Token::Number(_)))
    }

    /// Whether a word stands behind, of which an ordinal says which one it is.
    fn names_next(&self) -> bool {
        let word = self.rest().trim_start();
        word.len() < self.rest().len() && word.bytes().take_while(u8::is_ascii_alphabetic).count() > 2
    }

    /// Whether the last token ends a value, so that a unit may follow.
    fn follows_value(&self) -> bool {
        matches!(
            self.tokens.last(),
            Some(
                Token::Number(_)
                    | Token::Word(_)
                    | Token::Constant(_)
                    | Token::Sign('}' | ')' | '/' | '|' | '°')
            )
        )
    }

    /// A command of LaTeX.
    fn command(&mut self) -> Result<(), Unreadable> {
        let after = &self.rest()[1..];
        let length = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        if length == 0 {
            let Some(sign) = after.chars().next() else {
                self.at += 1;
                return Ok(());
            };
            self.at += 1 + sign.len_utf8();
            return self.escaped(sign);
        }
        let name = &after[..length];
        self.at += 1 + length;
        // `\quadx` is a space before an x that somebody's script glued to it.
        if let Some(glued) = name.strip_prefix("qquad").or_else(|| name.strip_prefix("quad")) {
            self.at -= glued.len();
            return Ok(());
        }
        match commands::meaning(name).ok_or(Unreadable)? {
            Meaning::Nothing => {
                // `\mathopen{}` shows nothing.
                self.at += if self.rest().starts_with("{}") { 2 } else { 0 };
                Ok(())
            }
            Meaning::Token(token) => {
                self.tokens.push(token);
                Ok(())
            }
            Meaning::Text => self.text_argument(name),
            Meaning::Dropped(arguments) => self.drop_arguments(arguments),
            Meaning::Length => self.drop_length(),
            Meaning::Delimiter => {
                // `\left.` is a bracket that is not shown.
                self.at += usize::from(self.rest().starts_with('.'));
                Ok(())
            }
            Meaning::Negated => self.negated(),
            Meaning::Stacked(mark) => self.stacked(mark),
            Meaning::Arrow(relation) => {
                self.drop_arguments(1)?;
                self.tokens.push(Token::Relation(relation));
                Ok(())
            }
            Meaning::Environment => self.environment(name == "begin"),
        }
    }

    fn environment(&mut self, begins: bool) -> Result<(), Unreadable> {
        let rest = self.rest();
        let close = rest.strip_prefix('{').and_then(|rest| rest.find('}')).ok_or(Unreadable)?;
        let environment = rest[1..=close].trim_end_matches('*').to_string();
        self.at += close + 2;
        self.tokens.push(if begins { Token::Begin(environment) } else { Token::End(environment) });
        Ok(())
    }

    /// A backslash before a sign.
    fn escaped(&mut self, sign: char) -> Result<(), Unreadable> {
        match sign {
            ' ' | ',' | ';' | ':' | '!' | '>' | '/' | '-' | '(' | ')' | '[' | ']' | '\n' => {}
            '{' => self.sign('⦃'),
            '}' => self.sign('⦄'),
            '\\' => {
                if self.rest().starts_with("[")
                    && self.rest()[1..].starts_with(|next: char| next.is_ascii_digit())
                {
                    self.drop_arguments(0)?;
                }
                self.sign('\n');
            }
            '%' => self.sign('%'),
            '|' => self.sign('|'),
            '$' => self.tokens.push(Token::Word("dollar".to_string())),
            _ => return Err(Unreadable),
        }
        Ok(())
    }
}

/// A sign that stands in braces alone, other than the comma of thousands.
fn braced_sign(text: &str) -> Option<char> {
    match text.as_bytes() {
        [b'{', sign @ (b':' | b'=' | b'<' | b'>' | b'+' | b'-' | b'*' | b'/'), b'}', ..] => {
            Some(char::from(*sign))
        }
        _ => None,
    }
}

/// Relations and operations of two signs.
fn two_signs(text: &str) -> Option<Token> {
    Some(match text.as_bytes().get(..2)? {
        b"<=" => Token::Relation(Relation::LessOrEqual),
        b">=" => Token::Relation(Relation::GreaterOrEqual),
        b"!=" => Token::Relation(Relation::NotEqual),
        b"==" => Token::Relation(Relation::Equal),
        b"->" => Token::Relation(Relation::Other("to")),
        b"=>" => Token::Relation(Relation::Other("Rightarrow")),
        b"**" => Token::Sign('^'),
        _ => return None,
    })
}
