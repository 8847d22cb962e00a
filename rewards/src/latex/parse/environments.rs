//! Environments: matrices, systems of equations, and functions in pieces.

use super::{Parsed, Parser, one_or};
use crate::latex::expression::Expression;
use crate::latex::lexer::{Token, Unreadable};

/// Environments whose rows are equations; `&` aligns them.
const SYSTEMS: [&str; 15] = [
    "aligned",
    "align",
    "alignedat",
    "alignat",
    "gathered",
    "gather",
    "split",
    "equation",
    "eqnarray",
    "multline",
    "displaymath",
    "math",
    "flalign",
    "center",
    "subequations",
];

impl Parser<'_> {
    pub(super) fn environment(&mut self, name: &str) -> Parsed {
        if matches!(name, "array" | "tabular" | "alignedat" | "alignat") {
            // `{c|c}` says how the columns stand.
            if !self.is_sign('{') {
                return Err(Unreadable);
            }
            self.skip_argument()?;
        }
        match name {
            "matrix" | "pmatrix" | "bmatrix" | "Bmatrix" | "smallmatrix" => {
                Ok(Expression::Matrix(self.matrix(name)?))
            }
            "array" | "tabular" => {
                let rows = self.matrix(name)?;
                if let [row] = &rows[..]
                    && let [single] = &row[..]
                {
                    return Ok(single.clone());
                }
                let is_system = rows.iter().all(|row| matches!(row[..], [Expression::Chain(..)]));
                let flat = || rows.iter().flatten().cloned().collect();
                Ok(if is_system { one_or(flat(), Expression::And) } else { Expression::Matrix(rows) })
            }
            "vmatrix" | "Vmatrix" => {
                // A determinant is known by its cells.
                let rows = self.matrix(name)?;
                let name = format!("{name} {}", rows.len());
                Ok(Expression::Unknown(name, rows.into_iter().flatten().collect()))
            }
            "cases" | "dcases" | "rcases" => self.cases(name),
            _ if SYSTEMS.contains(&name) => self.system(name),
            _ => Err(Unreadable),
        }
    }

    /// `\left\{\begin{array}{l} ... \end{array}\right.`: the brace may be closed, or not.
    pub(super) fn braced_system(&mut self) -> Parsed {
        let Some(Token::Begin(name)) = self.peek() else { return Err(Unreadable) };
        self.at += 1;
        let system = self.environment(name)?;
        self.take('⦄');
        Ok(system)
    }

    /// Steps over the end of this environment.
    fn take_end(&mut self, environment: &str) -> bool {
        let ends = matches!(self.peek(), Some(Token::End(name)) if name == environment);
        self.at += usize::from(ends);
        ends
    }

    /// The rows of a matrix, all of one width. A cell may be empty.
    fn matrix(&mut self, environment: &str) -> Result<Vec<Vec<Expression>>, Unreadable> {
        let aligned = std::mem::replace(&mut self.aligned, false);
        let mut rows = Vec::new();
        loop {
            let mut row = vec![self.cell()?];
            while self.take('&') {
                row.push(self.cell()?);
            }
            // A last row may be ended as the others are.
            if row != [empty()] {
                rows.push(row);
            }
            if self.take_end(environment) {
                break;
            }
            self.expect('\n')?;
        }
        self.aligned = aligned;
        let width = rows.first().ok_or(Unreadable)?.len();
        if rows.iter().all(|row| row.len() == width) { Ok(rows) } else { Err(Unreadable) }
    }

    fn cell(&mut self) -> Parsed {
        if self.ends_row() { Ok(empty()) } else { self.chain() }
    }

    /// Rows of equations. A row that begins with a relation goes on with the row before it.
    fn system(&mut self, environment: &str) -> Parsed {
        let aligned = std::mem::replace(&mut self.aligned, true);
        let mut rows: Vec<Expression> = Vec::new();
        loop {
            self.skip_alignment();
            match self.peek() {
                Some(Token::Relation(_)) => self.continued(&mut rows)?,
                Some(Token::Sign('\n') | Token::End(_)) => {}
                _ => rows.push(self.chain()?),
            }
            while self.take(',') || self.take(';') {}
            if self.take_end(environment) {
                break;
            }
            self.expect('\n')?;
        }
        self.aligned = aligned;
        if rows.is_empty() { Err(Unreadable) } else { Ok(one_or(rows, Expression::And)) }
    }

    /// A row that begins with a relation.
    fn continued(&mut self, rows: &mut Vec<Expression>) -> Result<(), Unreadable> {
        let last = rows.pop().ok_or(Unreadable)?;
        let (mut members, mut relations) = match last {
            Expression::Chain(members, relations) => (members, relations),
            single => (vec![single], Vec::new()),
        };
        while let Some(Token::Relation(relation)) = self.peek() {
            self.at += 1;
            self.skip_alignment();
            relations.push(*relation);
            members.push(self.union()?);
            self.skip_alignment();
        }
        rows.push(Expression::Chain(members, relations));
        Ok(())
    }

    /// `cases`: equations that all hold, or the pieces of a function with their conditions.
    fn cases(&mut self, environment: &str) -> Parsed {
        let aligned = std::mem::replace(&mut self.aligned, false);
        let (mut rows, mut pieces) = (Vec::new(), Vec::new());
        loop {
            if !self.ends_row() {
                let value = self.chain()?;
                self.take(',');
                let has_condition = self.take('&') || matches!(self.peek(), Some(Token::Word(_)));
                match has_condition && !self.ends_row() {
                    true => pieces.push([value, self.condition()?]),
                    false => rows.push(value),
                }
            }
            if self.take_end(environment) {
                break;
            }
            self.expect('\n')?;
        }
        self.aligned = aligned;
        match (rows.is_empty(), pieces.is_empty()) {
            (false, true) => Ok(one_or(rows, Expression::And)),
            (true, false) => Ok(Expression::Pieces(pieces)),
            (false, false) => {
                pieces.extend(rows.into_iter().map(|row| [row, empty()]));
                Ok(Expression::Pieces(pieces))
            }
            (true, true) => Err(Unreadable),
        }
    }

    /// The condition of a piece, without the words that introduce it.
    fn condition(&mut self) -> Parsed {
        while let Some(Token::Word(word)) = self.peek() {
            let introduces = matches!(word.to_lowercase().as_str(), "if" | "for" | "when" | "where");
            if !introduces {
                break;
            }
            self.at += 1;
        }
        self.list()
    }
}

/// What stands in an empty cell.
fn empty() -> Expression {
    Expression::Text(String::new())
}
