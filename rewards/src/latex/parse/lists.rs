//! Lists: what stands between commas, `and` and `or`.

use super::{Parser, one_or};
use crate::latex::expression::Expression;
use crate::latex::lexer::{Token, Unreadable};

/// A word between the parts of a list.
#[derive(Clone, Copy, PartialEq)]
enum Joint {
    And,
    Or,
}

impl Parser<'_> {
    /// Relations between commas, `and` and `or`. With a word among them they are one part: `and` binds before `or`,
    /// and a comma is what the words around it are.
    pub(super) fn items(&mut self, commas: &[char]) -> Result<Vec<Expression>, Unreadable> {
        let (mut items, mut ends, mut has_and) = (Vec::new(), Vec::new(), false);
        self.loose |= self.joint().is_some();
        loop {
            items.push(self.chain()?);
            let comma = commas.iter().any(|&comma| self.take(comma));
            let word = self.joint();
            if !comma && word.is_none() {
                return Ok(joined(items, &ends, has_and));
            }
            if word.is_none() && self.ends_row() {
                // A comma at the end belongs to the sentence around.
                self.loose |= self.peek().is_none();
                return Ok(joined(items, &ends, has_and));
            }
            has_and |= word == Some(Joint::And);
            if word == Some(Joint::Or) {
                ends.push(items.len());
            }
        }
    }

    /// Steps over `and` or `or`.
    fn joint(&mut self) -> Option<Joint> {
        let joint = match self.peek() {
            Some(Token::And) => Joint::And,
            Some(Token::Or) => Joint::Or,
            _ => return None,
        };
        self.at += 1;
        Some(joint)
    }

    /// Whether a row, cell or the whole text ends here.
    pub(super) fn ends_row(&self) -> bool {
        matches!(self.peek(), None | Some(Token::Sign('\n' | '&') | Token::End(_)))
    }
}

/// The parts of a list by the words between them: `or` stands behind the first `ends[i]` parts.
fn joined(mut items: Vec<Expression>, ends: &[usize], has_and: bool) -> Vec<Expression> {
    match (ends, has_and) {
        ([], false) => items,
        ([], true) => vec![Expression::And(items)],
        (_, false) => vec![Expression::Or(items)],
        (_, true) => {
            let mut groups: Vec<Expression> =
                ends.iter().rev().map(|&end| one_or(items.split_off(end), Expression::And)).collect();
            groups.push(one_or(items, Expression::And));
            groups.reverse();
            vec![Expression::Or(groups)]
        }
    }
}
