//! A sentence in pieces: words, values and the marks between them. A value is a run of mathematics, whatever it is
//! worth: `42`, `$x = 5$`, `(3, 4)`, `\frac{1}{2}`, `(C)`, and several of them with commas, `and` or `or` between.

use crate::math::formula::formula_at;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    Value,
    Mark(char),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Commands for text that are open here.
    pub(super) depth: usize,
}

impl Piece {
    pub(super) fn word<'a>(&self, text: &'a str) -> &'a str {
        if self.kind == Kind::Word { &text[self.start..self.end] } else { "" }
    }
}

/// More pieces are no sentence that states an answer.
const PIECES_MAX: usize = 120;

/// Commands around words.
const TEXTS: [&str; 9] = [
    r"\text{",
    r"\textbf{",
    r"\textit{",
    r"\textrm{",
    r"\textnormal{",
    r"\mbox{",
    r"\mathrm{",
    r"\mathbf{",
    r"\emph{",
];

/// What only sets space or type.
const SPACES: [&str; 12] =
    [r"\quad", r"\qquad", r"\displaystyle", r"\,", r"\;", r"\!", r"\:", r"\ ", r"\left.", "~", "**", "__"];

/// The pieces of a text; `None` if its braces do not balance or there are too many.
pub(super) fn pieces(text: &str) -> Option<Vec<Piece>> {
    let mut reader = Reader { text, at: 0, depth: 0, pieces: Vec::new() };
    while reader.at < text.len() {
        reader.step()?;
        if reader.pieces.len() > PIECES_MAX {
            return None;
        }
    }
    (reader.depth == 0).then(|| joined(reader.pieces, text))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    pieces: Vec<Piece>,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn push(&mut self, kind: Kind, length: usize) {
        let start = self.at;
        self.at += length;
        if kind == Kind::Value
            && let Some(last) = self.pieces.last_mut()
            && last.kind == Kind::Value
            && self.text[last.end..start].trim().is_empty()
            && last.depth == self.depth
        {
            last.end = self.at;
            return;
        }
        self.pieces.push(Piece { kind, start, end: self.at, depth: self.depth });
    }

    fn step(&mut self) -> Option<()> {
        let rest = self.rest();
        let first = rest.chars().next()?;
        if first.is_whitespace() {
            self.at += first.len_utf8();
            return Some(());
        }
        if let Some(command) = TEXTS.iter().find(|command| rest.starts_with(**command)) {
            self.at += command.len();
            self.depth += 1;
            return Some(());
        }
        if first == '}' && self.depth > 0 {
            self.at += 1;
            self.depth -= 1;
            return Some(());
        }
        if !self.is_power(rest)
            && let Some(space) = SPACES.iter().find(|space| rest.starts_with(**space))
        {
            self.at += space.len();
            return Some(());
        }
        if let Some((_, _, length)) = formula_at(rest) {
            self.push(Kind::Value, length);
            return Some(());
        }
        if let Some(end) = rest.strip_prefix("<<").and_then(|inner| inner.find(">>")) {
            // A calculator's note.
            self.at += end + 4;
            return Some(());
        }
        match first {
            'a'..='z' | 'A'..='Z' => self.letters(),
            '\\' => self.command(),
            '{' => self.group('{', '}')?,
            '(' | '[' => self.bracket(first),
            _ => self.sign(first),
        }
        Some(())
    }

    /// Whether `**` stands between two values without space, as a power.
    fn is_power(&self, rest: &str) -> bool {
        rest.starts_with("**")
            && self.text[..self.at].ends_with(|before: char| before.is_alphanumeric() || before == ')')
            && rest[2..].starts_with(|next: char| next.is_alphanumeric() || next == '(')
    }

    /// A word, or letters of mathematics: a single one, a function's name, letters at a number.
    fn letters(&mut self) {
        let rest = self.rest();
        let length = word_length(rest);
        let word = &rest[..length];
        let before = self.text[..self.at].chars().next_back();
        let is_attached = before.is_some_and(|before| before.is_ascii_digit() || "^_\\".contains(before))
            && !matches!(word, "th" | "st" | "nd" | "rd")
            && length < 4;
        let is_letter = length == 1 && !self.is_article(rest);
        let calls = rest[length..].starts_with(['(', '^', '_', '{', '\\'])
            || rest[length..].trim_start().starts_with(|next: char| next.is_ascii_digit());
        let is_function = calls
            && matches!(
                word,
                "sin"
                    | "cos"
                    | "tan"
                    | "cot"
                    | "sec"
                    | "csc"
                    | "ln"
                    | "log"
                    | "exp"
                    | "sqrt"
                    | "pi"
                    | "arctan"
                    | "arcsin"
                    | "arccos"
                    | "gcd"
                    | "lcm"
            )
            || matches!(word, "pi" | "sqrt");
        let kind =
            if is_letter || is_function || is_attached && length < 3 { Kind::Value } else { Kind::Word };
        // The point of `C. 14` and the bracket of `C) 14` belong to the letter.
        let mark = &rest[length..];
        let is_label = length == 1
            && word.chars().all(|letter| letter.is_ascii_uppercase())
            && (mark.starts_with(['.', ')', ':']) && mark[1..].starts_with(' '));
        self.push(kind, length + usize::from(kind == Kind::Value && is_label));
    }

    /// `a` and `I` as words, and `A` before a word that is not said about a choice.
    fn is_article(&self, rest: &str) -> bool {
        let Some(next) = rest[1..].strip_prefix(' ') else { return false };
        let length = word_length(next);
        let word = &next[..length];
        match &rest[..1] {
            "a" | "I" => length > 1,
            "A" => {
                length > 1
                    && next.starts_with(|first: char| first.is_lowercase())
                    && !matches!(
                        word,
                        "is" | "was"
                            | "because"
                            | "since"
                            | "as"
                            | "and"
                            | "or"
                            | "not"
                            | "which"
                            | "but"
                            | "for"
                            | "if"
                            | "isn't"
                    )
            }
            _ => false,
        }
    }

    /// A command with its arguments, as a value.
    fn command(&mut self) {
        let rest = self.rest();
        let letters = rest[1..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let mut length = 1 + letters;
        if letters == 0 {
            length += rest[1..].chars().next().map_or(0, char::len_utf8);
        }
        while let Some(end) = group_length(&rest[length..]) {
            length += end;
        }
        self.push(Kind::Value, length);
    }

    fn group(&mut self, _open: char, _close: char) -> Option<()> {
        let length = group_length(self.rest())?;
        self.push(Kind::Value, length);
        Some(())
    }

    /// A bracket of mathematics whole, or the mark that opens words.
    fn bracket(&mut self, open: char) {
        let rest = self.rest();
        let mut depth = 0i32;
        let mut end = None;
        for (at, byte) in rest.bytes().enumerate() {
            match byte {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                end = Some(at + 1);
                break;
            }
        }
        match end {
            Some(end) if !has_word(&rest[1..end]) => self.push(Kind::Value, end),
            _ => self.push(Kind::Mark(open), 1),
        }
    }

    fn sign(&mut self, first: char) {
        let rest = self.rest();
        let length = first.len_utf8();
        let after = &rest[length..];
        let next_is_value =
            after.trim_start().starts_with(|next: char| next.is_ascii_digit() || "\\$(-".contains(next));
        let behind_value = self
            .pieces
            .last()
            .is_some_and(|last| last.kind == Kind::Value && self.text[last.end..self.at].trim().is_empty());
        let is_value = match first {
            '.' | ',' => {
                after.starts_with(|next: char| next.is_ascii_digit()) && (first == '.' || behind_value)
            }
            ':' => {
                behind_value
                    && next_is_value
                    && after.starts_with(|next: char| next.is_ascii_digit() || next == ' ')
                    && self.text[..self.at].trim_end().ends_with(|before: char| before.is_ascii_digit())
            }
            '!' => behind_value,
            ';' | '?' | ')' | ']' | '"' | '“' | '”' | '`' | '—' => false,
            '*' => behind_value && next_is_value,
            '-' | '–' => next_is_value || behind_value && !after.starts_with(' '),
            _ => true,
        };
        let kind = match first {
            _ if is_value => Kind::Value,
            '"' | '“' | '”' | '`' | '*' | '\'' => Kind::Mark('"'),
            '-' | '–' => Kind::Mark('—'),
            ']' => Kind::Mark(')'),
            other => Kind::Mark(other),
        };
        self.push(kind, length);
    }
}

/// The length of a word: letters with hyphens and apostrophes inside.
fn word_length(text: &str) -> usize {
    let mut end = 0;
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let goes_on = matches!(letter, '\'' | '’' | '-')
            && at > 0
            && letters.peek().is_some_and(|(_, next)| next.is_alphabetic());
        if !letter.is_alphabetic() && !goes_on {
            break;
        }
        end = at + letter.len_utf8();
    }
    end
}

/// The length of a balanced group in curly or square brackets at the very start.
fn group_length(text: &str) -> Option<usize> {
    let (open, close) = match text.as_bytes().first()? {
        b'{' => (b'{', b'}'),
        _ => return None,
    };
    let mut depth = 0usize;
    for (at, byte) in text.bytes().enumerate() {
        if byte == open {
            depth += 1;
        } else if byte == close {
            depth -= 1;
            if depth == 0 {
                return Some(at + 1);
            }
        }
    }
    None
}

/// Whether there are two letters in a row that are no command and no function.
fn has_word(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find(|next: char| next.is_ascii_alphabetic() || next == '\\') {
        let start = usize::from(rest[at..].starts_with('\\'));
        let length = rest[at + start..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let word = &rest[at + start..at + start + length];
        let is_text = start == 1 && matches!(word, "text" | "textbf" | "mbox" | "mathrm");
        let is_known = matches!(
            word,
            "sin" | "cos" | "tan" | "ln" | "log" | "exp" | "sqrt" | "pi" | "or" | "and" | "inf" | "infty"
        );
        if start == 0 && length > 1 && !is_known || is_text {
            return true;
        }
        rest = &rest[at + start + length.max(1 - start)..];
        if start == 1 && length == 0 {
            rest = rest.get(rest.chars().next().map_or(0, char::len_utf8)..).unwrap_or("");
        }
    }
    false
}

/// Values with nothing but commas, `and` and `or` between them are one value, which has parts.
fn joined(pieces: Vec<Piece>, text: &str) -> Vec<Piece> {
    let mut all: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        all.push(piece);
        if piece.kind != Kind::Value {
            continue;
        }
        let before = all.len() - 1;
        let mut at = before;
        while at > 0 && is_joint(&all[at - 1], text) {
            at -= 1;
        }
        if at < before
            && at > 0
            && all[at - 1].kind == Kind::Value
            && all[at - 1].depth == piece.depth
            && !is_equation_pair(&all[at - 1], &piece, &all[at..before], text)
        {
            all[at - 1].end = piece.end;
            all.truncate(at);
        }
    }
    all
}

/// Equations with a word between them are statements of their own, as in `2x = 4 and so x = 2`.
fn is_equation_pair(_left: &Piece, _right: &Piece, joints: &[Piece], _text: &str) -> bool {
    joints.len() > 2
}

fn is_joint(piece: &Piece, text: &str) -> bool {
    match piece.kind {
        Kind::Word => matches!(piece.word(text), "and" | "or"),
        Kind::Mark(mark) => matches!(mark, ',' | ';'),
        Kind::Value => false,
    }
}
