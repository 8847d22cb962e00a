//! The reader of LaTeX and plain mathematics: text to tokens, tokens to a tree that holds what was written.
//!
//! What a tree is worth is not decided here. The mathematics verifier evaluates and compares it, and the format
//! verifier asks whether there is one.

pub(crate) mod ratio;
mod unicode;
pub(crate) mod unit;
pub(crate) mod expression;
pub(crate) mod label;
pub(crate) mod qualifier;
mod lexer;
mod parse;

pub(crate) use parse::{is_typeset, parse};
pub(crate) use unicode::folded;
