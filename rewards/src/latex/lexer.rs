//! Cuts LaTeX and plain mathematics into tokens, in one pass. What only sets type (`\left`, `\displaystyle`, spaces)
//! is gone afterwards; what is not mathematics is an error, and such an answer is compared as text.

use crate::latex::expression::{Constant, Function, Number, Relation};
use crate::latex::ratio::Ratio;
use crate::latex::unit::Unit;

/// More tokens than this are no final answer. A list of a thousand numbers fits.
const TOKENS_MAX: usize = 4096;

/// A decimal exponent beyond this is no answer; it bounds the digits of `1e9999`.
const EXPONENT_MAX: i64 = 9999;

/// What the parser reads.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Number(Number),
    /// A letter, also a Greek one by its command's name.
    Name(String),
    /// A word that is marked as text, or too long to be a product of variables.
    Word(String),
    Function(Function),
    Constant(Constant),
    Relation(Relation),
    /// `\frac`, `\binom`, `\sqrt` and other commands whose arguments the parser reads.
    Command(&'static str),
    /// Beginning and end of an environment.
    Begin(String),
    End(String),
    /// `and`, `or`.
    Separator,
    /// Brackets and operators. Curly brackets that are shown are `⦃` and `⦄`, a new row is `\n`.
    Sign(char),
}

/// The text is not mathematics that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// The tokens of a text. With `thousands` a comma before three digits joins `1,234` to one number.
pub(super) fn lex(text: &str, thousands: bool) -> Result<Vec<Token>, Unreadable> {
    let mut lexer = Lexer { text, at: 0, thousands, tokens: Vec::with_capacity(16) };
    while lexer.at < text.len() {
        lexer.step()?;
        if lexer.tokens.len() > TOKENS_MAX {
            return Err(Unreadable);
        }
    }
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    thousands: bool,
    tokens: Vec<Token>,
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
        let is_number = first.is_ascii_digit()
            || (first == '.' && rest[1..].starts_with(|next: char| next.is_ascii_digit()));
        if is_number {
            return self.number();
        }
        if first.is_ascii_alphabetic() {
            return self.letters();
        }
        if first == '\\' {
            return self.command();
        }
        if let Some(relation) = two_signs(rest) {
            self.at += 2;
            self.tokens.push(Token::Relation(relation));
            return Ok(());
        }
        self.at += first.len_utf8();
        self.character(first)
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
            ' ' | '\t' | '\n' | '\r' | '~' | '\u{a0}' | '\u{2009}' | '\u{202f}' | '$' | '\u{2061}'
            | '\u{200b}' => {
                return Ok(());
            }
            '+' | '-' | '*' | '/' | '^' | '_' | '!' | '|' | ',' | ';' | ':' | '\'' | '&' | '%' | '('
            | ')' | '[' | ']' | '{' | '}' | '±' | '∓' | '∪' | '∩' | '°' => Token::Sign(character),
            '−' | '–' | '—' => Token::Sign('-'),
            '·' | '×' | '⋅' | '∗' => Token::Sign('*'),
            '÷' | '∕' => Token::Sign('/'),
            '′' | '’' => Token::Sign('\''),
            '∖' => Token::Sign('∖'),
            '√' => Token::Command("sqrt"),
            '∅' => Token::Command("emptyset"),
            '∞' => Token::Constant(Constant::Infinity),
            'π' => Token::Constant(Constant::Pi),
            '=' => Token::Relation(Relation::Equal),
            '<' => Token::Relation(Relation::Less),
            '>' => Token::Relation(Relation::Greater),
            '≤' | '⩽' => Token::Relation(Relation::LessOrEqual),
            '≥' | '⩾' => Token::Relation(Relation::GreaterOrEqual),
            '≠' => Token::Relation(Relation::NotEqual),
            '≈' => Token::Relation(Relation::Approximate),
            '∈' => Token::Relation(Relation::Element),
            '€' => Token::Word("euro".to_string()),
            '£' => Token::Word("sterling".to_string()),
            '¥' => Token::Word("yen".to_string()),
            '₹' => Token::Word("rupee".to_string()),
            'ℝ' => Token::Name("Reals".to_string()),
            '²' | '³' => {
                self.sign('^');
                let value = if character == '²' { "2" } else { "3" };
                Token::Number(number(value, 0, 0, false)?)
            }
            _ => {
                let (_, name) = GREEK.iter().find(|entry| entry.0 == character).ok_or(Unreadable)?;
                Token::Name(name.to_string())
            }
        };
        self.tokens.push(token);
        Ok(())
    }

    /// A run of letters outside of any text command.
    fn letters(&mut self) -> Result<(), Unreadable> {
        let rest = self.rest();
        let length = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let run = &rest[..length];
        self.at += length;
        let divides_unit = matches!(self.tokens[..], [.., Token::Word(_), Token::Sign('/')]);
        if length == 1 && divides_unit && matches!(run, "h" | "s") {
            self.tokens.push(Token::Word(run.to_string()));
        } else if length == 1 {
            self.tokens.push(letter(run));
        } else if self.is_ordinal(run) {
            // `12th` is 12.
        } else if let Some(token) = plain_word(run) {
            self.tokens.push(token);
        } else if Unit::is_bare(run) && self.follows_value() || length > 3 {
            self.tokens.push(Token::Word(run.to_string()));
        } else {
            self.tokens.extend(run.split("").filter(|letter| !letter.is_empty()).map(letter));
        }
        Ok(())
    }

    /// Whether these letters make the number before them an ordinal.
    fn is_ordinal(&self, run: &str) -> bool {
        let number = self.tokens.iter().rev().find(|token| !matches!(token, Token::Sign('^' | '{')));
        matches!(run, "st" | "nd" | "rd" | "th") && matches!(number, Some(Token::Number(_)))
    }

    /// Whether the last token ends a value, so that a unit may follow.
    fn follows_value(&self) -> bool {
        matches!(
            self.tokens.last(),
            Some(Token::Number(_) | Token::Word(_) | Token::Constant(_) | Token::Sign('}' | ')' | '/' | '|'))
        )
    }

    /// A decimal number with its thousands, repeating digits and exponent.
    fn number(&mut self) -> Result<(), Unreadable> {
        let mut digits = String::new();
        let mut end = self.at + digit_count(self.rest());
        digits.push_str(&self.text[self.at..end]);
        if (1..=3).contains(&digits.len()) && !digits.starts_with('0') {
            while let Some(gap) = thousands_gap(&self.text[end..], self.thousands) {
                digits.push_str(&self.text[end + gap..end + gap + 3]);
                end += gap + 3;
            }
        }
        let (mut places, mut point, mut repeating) = (0, false, 0);
        if let Some(part) = self.text[end..].strip_prefix('.') {
            places = digit_count(part);
            let after = &part[places..];
            let repeated = repeated_digits(after);
            if places > 0 || repeated.is_some() || !after.starts_with('.') {
                point = places > 0 || repeated.is_some();
                digits.push_str(&part[..places]);
                end += 1 + places;
            }
            if let Some((block, length)) = repeated {
                digits.push_str(block);
                repeating = block.len();
                end += length;
            }
        }
        let (exponent, length) = exponent(&self.text[end..]);
        self.at = end + length;
        let token = match repeating {
            0 => number(&digits, places, exponent, point)?,
            _ => repeating_number(&digits, places, repeating)?,
        };
        self.tokens.push(Token::Number(token));
        Ok(())
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
        match name {
            "text" | "textbf" | "textit" | "textrm" | "textnormal" | "textsf" | "texttt" | "mbox"
            | "hbox" | "mathrm" | "mathit" | "mathbf" | "mathsf" | "operatorname" | "bf" | "rm"
            | "boldsymbol" | "bm" | "mathcal" | "mathbb" => self.text_argument(name),
            "begin" | "end" => {
                let rest = self.rest();
                let close = rest.strip_prefix('{').and_then(|rest| rest.find('}')).ok_or(Unreadable)?;
                let environment = rest[1..=close].trim_end_matches('*').to_string();
                self.at += close + 2;
                self.tokens.push(match name {
                    "begin" => Token::Begin(environment),
                    _ => Token::End(environment),
                });
                Ok(())
            }
            "left" | "right" | "bigl" | "bigr" | "Bigl" | "Bigr" | "big" | "Big" | "bigg" | "Bigg"
            | "biggl" | "biggr" => {
                // `\left.` is a bracket that is not shown.
                if self.rest().starts_with('.') {
                    self.at += 1;
                }
                Ok(())
            }
            _ => {
                // `\quadx` is a space before an x that somebody's script glued to it.
                if let Some(glued) = name.strip_prefix("qquad").or_else(|| name.strip_prefix("quad")) {
                    self.at -= glued.len();
                    return Ok(());
                }
                if let Some(token) = known_command(name)? {
                    self.tokens.push(token);
                }
                Ok(())
            }
        }
    }

    /// A backslash before a sign.
    fn escaped(&mut self, sign: char) -> Result<(), Unreadable> {
        match sign {
            ' ' | ',' | ';' | ':' | '!' | '(' | ')' | '[' | ']' | '\n' => {}
            '{' => self.sign('⦃'),
            '}' => self.sign('⦄'),
            '\\' => self.sign('\n'),
            '%' => self.sign('%'),
            '|' => self.sign('|'),
            '$' => self.tokens.push(Token::Word("dollar".to_string())),
            '&' | '_' | '#' => return Err(Unreadable),
            _ => return Err(Unreadable),
        }
        Ok(())
    }

    /// The argument of a text command: words, numbers and signs, but no products of letters.
    fn text_argument(&mut self, name: &str) -> Result<(), Unreadable> {
        let rest = self.rest();
        let trimmed = rest.trim_start();
        let Some(inner) = trimmed.strip_prefix('{') else {
            // `\mathbf v` and `\bf x` mark one letter.
            return if trimmed.starts_with(|next: char| next.is_ascii_alphanumeric()) {
                Ok(())
            } else {
                Err(Unreadable)
            };
        };
        let close = inner.find(['{', '}']).filter(|&at| inner.as_bytes()[at] == b'}');
        let Some(close) = close else {
            // With braces inside it is mathematics in another type.
            return Ok(());
        };
        self.at += rest.len() - trimmed.len() + close + 2;
        let content = &inner[..close];
        if name == "mathbb" && content == "R" {
            self.tokens.push(Token::Name("Reals".to_string()));
            return Ok(());
        }
        let is_maths =
            name.starts_with("math") || name == "boldsymbol" || name == "bm" || name == "operatorname";
        for word in content.split_whitespace() {
            self.text_word(word, is_maths, content.trim().len() == 1)?;
        }
        Ok(())
    }

    /// One word of a text argument.
    fn text_word(&mut self, word: &str, is_maths: bool, is_alone: bool) -> Result<(), Unreadable> {
        let mut at = 0;
        while let Some(first) = word[at..].chars().next() {
            let is_letter = |next: &char| next.is_alphabetic();
            let letters: usize = word[at..].chars().take_while(is_letter).map(char::len_utf8).sum();
            if letters > 0 {
                let run = &word[at..at + letters];
                at += letters;
                let dotted = word[at..].starts_with('.');
                at += usize::from(dotted);
                if self.is_ordinal(run) {
                    continue;
                }
                let is_unit = self.follows_value() && !is_alone_letter(run, is_maths, is_alone);
                self.tokens.push(match plain_word(run) {
                    Some(token) => token,
                    None if letters == 1 && !is_unit => letter(run),
                    None => Token::Word(run.to_string()),
                });
                continue;
            }
            // Numbers and signs mean the same in text.
            let end = word[at..].find(char::is_alphabetic).map_or(word.len(), |found| at + found);
            let end = if first == '\\' { word.len() } else { end.max(at + first.len_utf8()) };
            let inner = lex(&word[at..end], self.thousands)?;
            self.tokens.extend(inner);
            at = end;
        }
        Ok(())
    }
}

/// Whether a single letter in a text command is a name: vectors are set that way, and units are not alone.
fn is_alone_letter(run: &str, is_maths: bool, is_alone: bool) -> bool {
    run.len() == 1
        && is_maths
        && is_alone
        && !matches!(run, "m" | "s" | "g" | "h" | "l" | "L" | "N" | "J" | "W")
}

fn digit_count(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// The length of what separates thousands, if exactly three digits follow it.
fn thousands_gap(text: &str, comma: bool) -> Option<usize> {
    const GAPS: [&str; 10] =
        ["{,}", r"{,}\!", r",\!", r"\,", r"\ ", r"\;", "~", "\u{a0}", "\u{2009}", "\u{202f}"];
    let joined = if comma { [",", " ", r",\! "] } else { [" ", " ", " "] };
    let gap = GAPS.iter().chain(&joined).filter(|gap| text.starts_with(**gap)).map(|gap| gap.len()).max()?;
    (digit_count(&text[gap..]) == 3).then_some(gap)
}

/// The digits under a bar (`\overline{3}`) and the length of the whole.
fn repeated_digits(text: &str) -> Option<(&str, usize)> {
    let inner =
        [r"\overline{", r"\bar{", r"\overline ", r"\dot{"].iter().find_map(|bar| text.strip_prefix(bar))?;
    let count = digit_count(inner);
    let closes = inner[count..].starts_with('}');
    (count > 0 && count <= 64 && closes).then(|| (&inner[..count], text.len() - inner.len() + count + 1))
}

/// The exponent of `1.5e-7` and its length.
fn exponent(text: &str) -> (i64, usize) {
    let Some(after) = text.strip_prefix(['e', 'E']) else { return (0, 0) };
    let unsigned = after.strip_prefix(['-', '+']).unwrap_or(after);
    let count = digit_count(unsigned);
    let length = text.len() - unsigned.len() + count;
    let ends = !text[length..].starts_with(|next: char| next.is_ascii_alphanumeric());
    match text[1..length].parse::<i64>() {
        Ok(value) if count > 0 && ends => (value, length),
        _ if count > 0 && ends => (EXPONENT_MAX + 1, length),
        _ => (0, 0),
    }
}

fn number(digits: &str, places: usize, exponent: i64, point: bool) -> Result<Number, Unreadable> {
    if !(-EXPONENT_MAX..=EXPONENT_MAX).contains(&exponent) {
        return Err(Unreadable);
    }
    let value = Ratio::from_digits(digits.as_bytes(), places, exponent).ok_or(Unreadable)?;
    let plain = if point || exponent != 0 { String::new() } else { digits.to_string() };
    let places = point.then_some(places as i64 - exponent);
    Ok(Number { value, places, digits: digits.trim_start_matches('0').len(), plain })
}

/// `0.1\overline{6}`: the digits with the block once, less the digits before it, over nines and zeros.
fn repeating_number(digits: &str, places: usize, block: usize) -> Result<Number, Unreadable> {
    let before = &digits[..digits.len() - block];
    let (all, before) = (
        Ratio::from_digits(digits.as_bytes(), 0, 0),
        Ratio::from_digits(if before.is_empty() { b"0" } else { before.as_bytes() }, 0, 0),
    );
    let nines = Ratio::from_digits("9".repeat(block).as_bytes(), 0, places as i64);
    let value = all.zip(before).and_then(|(all, before)| all.plus(&before.negative()));
    let value = value.zip(nines).and_then(|(top, bottom)| top.over(&bottom)).ok_or(Unreadable)?;
    Ok(Number { value, places: None, digits: digits.len(), plain: String::new() })
}

/// Relations of two signs.
fn two_signs(text: &str) -> Option<Relation> {
    match text.as_bytes().get(..2)? {
        b"<=" => Some(Relation::LessOrEqual),
        b">=" => Some(Relation::GreaterOrEqual),
        b"!=" => Some(Relation::NotEqual),
        b"==" => Some(Relation::Equal),
        _ => None,
    }
}

fn letter(name: &str) -> Token {
    match name {
        "e" => Token::Constant(Constant::E),
        "i" => Token::Constant(Constant::I),
        _ => Token::Name(name.to_string()),
    }
}

/// Words that mean something without any mark.
fn plain_word(word: &str) -> Option<Token> {
    if ["yes", "no", "true", "false", "none"].iter().any(|known| word.eq_ignore_ascii_case(known)) {
        return Some(Token::Word(word.to_string()));
    }
    Some(match word {
        "and" | "or" => Token::Separator,
        "pi" => Token::Constant(Constant::Pi),
        "inf" | "infty" | "infinity" | "Infinity" | "oo" => Token::Constant(Constant::Infinity),
        "sqrt" => Token::Command("sqrt"),
        "percent" | "pct" | "percentage" => Token::Sign('%'),
        "degrees" | "degree" | "deg" => Token::Sign('°'),
        "in" => return None,
        _ => return function(word).map(Token::Function),
    })
}

fn function(name: &str) -> Option<Function> {
    Some(match name {
        "sin" => Function::Sin,
        "cos" => Function::Cos,
        "tan" | "tg" => Function::Tan,
        "cot" | "ctg" => Function::Cot,
        "sec" => Function::Sec,
        "csc" | "cosec" => Function::Csc,
        "arcsin" => Function::Arcsin,
        "arccos" => Function::Arccos,
        "arctan" | "arctg" => Function::Arctan,
        "sinh" => Function::Sinh,
        "cosh" => Function::Cosh,
        "tanh" => Function::Tanh,
        "exp" => Function::Exp,
        "ln" => Function::Ln,
        "log" | "lg" => Function::Log,
        "min" => Function::Min,
        "max" => Function::Max,
        "gcd" => Function::Gcd,
        "lcm" => Function::Lcm,
        _ => return None,
    })
}

/// What a command stands for; `None` for those that only set type.
fn known_command(name: &str) -> Result<Option<Token>, Unreadable> {
    if let Some(function) = function(name) {
        return Ok(Some(Token::Function(function)));
    }
    let relation = |relation| Ok(Some(Token::Relation(relation)));
    let sign = |sign| Ok(Some(Token::Sign(sign)));
    match name {
        "displaystyle" | "textstyle" | "scriptstyle" | "limits" | "quad" | "qquad" | "hspace" | "middle"
        | "rlap" | "phantom" | "nonumber" | "thinspace" | "medspace" | "enspace" => Ok(None),
        "frac" | "dfrac" | "tfrac" | "cfrac" => Ok(Some(Token::Command("frac"))),
        "binom" | "dbinom" | "tbinom" => Ok(Some(Token::Command("binom"))),
        "choose" => Ok(Some(Token::Command("choose"))),
        "over" => Ok(Some(Token::Command("over"))),
        "sqrt" => Ok(Some(Token::Command("sqrt"))),
        "emptyset" | "varnothing" => Ok(Some(Token::Command("emptyset"))),
        "overline" | "overrightarrow" | "vec" | "hat" | "bar" | "tilde" | "widehat" | "underline"
        | "overleftrightarrow" => Ok(Some(Token::Command("accent"))),
        "boxed" | "fbox" => Ok(None),
        "cdot" | "times" | "ast" | "star" => sign('*'),
        "div" => sign('/'),
        "pm" => sign('±'),
        "mp" => sign('∓'),
        "cup" => sign('∪'),
        "cap" => sign('∩'),
        "setminus" | "backslash" | "smallsetminus" => sign('∖'),
        "circ" | "degree" | "textdegree" => sign('°'),
        "prime" => sign('\''),
        "lbrace" => sign('⦃'),
        "rbrace" => sign('⦄'),
        "lvert" | "rvert" | "vert" | "mid" | "lVert" | "rVert" | "Vert" => sign('|'),
        "langle" => sign('⟨'),
        "rangle" => sign('⟩'),
        "lbrack" => sign('['),
        "rbrack" => sign(']'),
        "lfloor" => sign('⌊'),
        "rfloor" => sign('⌋'),
        "lceil" => sign('⌈'),
        "rceil" => sign('⌉'),
        "colon" => sign(':'),
        "land" | "lor" | "wedge" | "vee" => Ok(Some(Token::Separator)),
        "le" | "leq" | "leqslant" => relation(Relation::LessOrEqual),
        "ge" | "geq" | "geqslant" => relation(Relation::GreaterOrEqual),
        "lt" => relation(Relation::Less),
        "gt" => relation(Relation::Greater),
        "ne" | "neq" => relation(Relation::NotEqual),
        "approx" | "simeq" | "thickapprox" => relation(Relation::Approximate),
        "in" => relation(Relation::Element),
        "infty" => Ok(Some(Token::Constant(Constant::Infinity))),
        "pi" => Ok(Some(Token::Constant(Constant::Pi))),
        "odot" | "hbar" | "nabla" | "partial" | "oplus" => Ok(Some(Token::Name(name.to_string()))),
        "imath" => Ok(Some(Token::Constant(Constant::I))),
        "R" | "Reals" => Ok(Some(Token::Name("Reals".to_string()))),
        "cdots" | "dots" | "ldots" | "dotsc" | "dotsb" => Ok(Some(Token::Name("dots".to_string()))),
        _ if GREEK.iter().any(|known| known.1 == name) => Ok(Some(Token::Name(name.to_string()))),
        _ => Err(Unreadable),
    }
}

/// Greek letters and the names of their commands.
const GREEK: [(char, &str); 40] = [
    ('α', "alpha"),
    ('β', "beta"),
    ('γ', "gamma"),
    ('δ', "delta"),
    ('ε', "epsilon"),
    ('ε', "varepsilon"),
    ('ζ', "zeta"),
    ('η', "eta"),
    ('θ', "theta"),
    ('ϑ', "vartheta"),
    ('ι', "iota"),
    ('κ', "kappa"),
    ('λ', "lambda"),
    ('μ', "mu"),
    ('ν', "nu"),
    ('ξ', "xi"),
    ('ρ', "rho"),
    ('ρ', "varrho"),
    ('σ', "sigma"),
    ('τ', "tau"),
    ('υ', "upsilon"),
    ('φ', "phi"),
    ('ϕ', "varphi"),
    ('χ', "chi"),
    ('ψ', "psi"),
    ('ω', "omega"),
    ('Γ', "Gamma"),
    ('Δ', "Delta"),
    ('Θ', "Theta"),
    ('Λ', "Lambda"),
    ('Ξ', "Xi"),
    ('Π', "Pi"),
    ('Σ', "Sigma"),
    ('Υ', "Upsilon"),
    ('Φ', "Phi"),
    ('Ψ', "Psi"),
    ('Ω', "Omega"),
    ('ℓ', "ell"),
    ('∠', "angle"),
    ('△', "triangle"),
];
