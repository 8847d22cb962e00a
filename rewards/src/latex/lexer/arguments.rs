//! Arguments of commands that the lexer reads itself: those that are not shown, lengths, `\not`, and what is put over or
//! under something.

use super::commands::{self, Meaning};
use super::{Lexer, Token, Unreadable};
use crate::boxed::closing_brace;
use crate::latex::expression::Relation;

impl Lexer<'_> {
    /// Steps over arguments that are not shown, such as a colour, with a star and an option before them.
    pub(super) fn drop_arguments(&mut self, arguments: u8) -> Result<(), Unreadable> {
        let mut rest = self.rest();
        rest = rest.strip_prefix('*').unwrap_or(rest);
        if let Some(option) = rest.trim_start().strip_prefix('[') {
            rest = &option[option.find(']').ok_or(Unreadable)? + 1..];
        }
        for _ in 0..arguments {
            rest = argument(rest).ok_or(Unreadable)?.1;
        }
        self.at = self.text.len() - rest.len();
        Ok(())
    }

    /// Steps over a length in braces or without them: `\hspace{1cm}`, `\kern 3pt`, `\\[2pt]`.
    pub(super) fn drop_length(&mut self) -> Result<(), Unreadable> {
        if self.rest().trim_start().starts_with(['{', '*']) {
            return self.drop_arguments(1);
        }
        let rest = self.rest().trim_start();
        let number =
            rest.trim_start_matches(|next: char| next.is_ascii_digit() || matches!(next, '.' | '-' | '+'));
        const LENGTHS: [&str; 8] = ["pt", "em", "ex", "mu", "cm", "mm", "in", "px"];
        let behind =
            LENGTHS.iter().find_map(|unit| number.trim_start().strip_prefix(unit)).ok_or(Unreadable)?;
        self.at = self.text.len() - behind.len();
        Ok(())
    }

    /// `\not` and the relation behind it.
    pub(super) fn negated(&mut self) -> Result<(), Unreadable> {
        // A relation is negated once, which also bounds the depth of the steps below.
        if std::mem::replace(&mut self.negates, true) {
            return Err(Unreadable);
        }
        let count = self.tokens.len();
        while self.tokens.len() == count && self.at < self.text.len() {
            self.step()?;
        }
        self.negates = false;
        let Some(Token::Relation(relation)) = self.tokens.last_mut() else { return Err(Unreadable) };
        *relation = match relation {
            Relation::Equal => Relation::NotEqual,
            Relation::Element => Relation::Other("notin"),
            Relation::Congruent => Relation::Other("not equiv"),
            Relation::Other(name) => Relation::Other(commands::negated(name).ok_or(Unreadable)?),
            _ => return Err(Unreadable),
        };
        Ok(())
    }

    /// `\overset{!}{=}` is the relation that it is put on. Over a value it is a mark.
    pub(super) fn stacked(&mut self, mark: &'static str) -> Result<(), Unreadable> {
        let (put, behind) = argument(self.rest()).ok_or(Unreadable)?;
        let (base, after) = argument(behind).ok_or(Unreadable)?;
        let base = base.trim();
        let relation = match base {
            "=" => Some(Relation::Equal),
            "<" => Some(Relation::Less),
            ">" => Some(Relation::Greater),
            _ => match base.strip_prefix('\\').and_then(commands::meaning) {
                Some(Meaning::Token(Token::Relation(relation))) => Some(relation),
                _ => None,
            },
        };
        match relation {
            Some(relation) => {
                self.at = self.text.len() - after.len();
                // Before the answer it says nothing, like any sign of equality there.
                let leads = relation == Relation::Equal && self.tokens.is_empty();
                self.tokens.extend((!leads).then_some(Token::Relation(relation)));
            }
            None => {
                self.at = self.text.len() - behind.len();
                self.tokens.push(Token::Accent(mark));
                self.tokens.push(Token::Word(put.trim().to_string()));
            }
        }
        Ok(())
    }
}

/// The argument at the start of a text, in braces or a single character or command, and the text behind it.
fn argument(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    if let Some(inner) = text.strip_prefix('{') {
        let end = closing_brace(inner.as_bytes(), 0)?;
        return Some((&inner[..end], &inner[end + 1..]));
    }
    let first = text.chars().next().filter(|first| *first != '}')?;
    let length = match first {
        '\\' => 1 + text[1..].bytes().take_while(u8::is_ascii_alphabetic).count(),
        _ => first.len_utf8(),
    };
    Some(text.split_at(length))
}
