//! Matrices whose row separators were lost on the way: `\\` becomes `\ ` where a text is unescaped once too often, and
//! nothing at all where a data set was cleaned of it.

use std::borrow::Cow;

/// Environments of matrices in brackets.
const MATRICES: [&str; 3] = ["pmatrix", "bmatrix", "matrix"];

/// The cells of a text that is nothing but one matrix.
fn inside(text: &str) -> Option<&str> {
    let rest = text.trim().strip_prefix(r"\begin{")?;
    let (name, rest) = rest.split_once('}')?;
    let inside = rest.strip_suffix('}')?.strip_suffix(name)?.strip_suffix(r"\end{")?;
    (MATRICES.contains(&name) && !inside.contains(r"\begin")).then_some(inside)
}

/// The text with `\\` in its matrix where it has only `\ ` between rows. Where a number or fraction stands behind each
/// of them, and the rows have one width, they set no space.
pub(super) fn with_rows(text: &str) -> Cow<'_, str> {
    let Some(cells) = inside(text).filter(|cells| cells.contains(r"\ ") && !cells.contains(r"\\")) else {
        return Cow::Borrowed(text);
    };
    let parts: Vec<&str> = cells.split(r"\ ").map(str::trim).collect();
    let widths = parts.iter().map(|part| part.matches('&').count());
    let begins = |part: &str| {
        let part = part.trim_start_matches(['-', '+']);
        let is_command = [r"\frac", r"\dfrac", r"\sqrt"].iter().any(|command| part.starts_with(command));
        part.starts_with(|first: char| first.is_ascii_digit() || first == '.') || is_command
    };
    let is_row = |part: &&str| {
        begins(part) && !part.ends_with('&') && part.matches('{').count() == part.matches('}').count()
    };
    let are_rows =
        parts.iter().all(is_row) && widths.clone().all(|width| Some(width) == widths.clone().next());
    if !are_rows {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace(r"\ ", r"\\ "))
}

/// Whether the reference is the answer's column with its numbers run together: `-2-14-7` for -2, -14 and -7. A
/// reference that is one number may be a matrix of one cell, and stays one.
pub(super) fn is_run_together(reference: &str, answer: &str) -> bool {
    let (Some(run), Some(cells)) = (inside(reference), inside(answer)) else { return false };
    let run: String = run.chars().filter(|character| !character.is_whitespace()).collect();
    let is_sum = run.len() > 1 && run[1..].contains(['-', '+']) && run.bytes().all(is_of_number);
    let rows: Vec<&str> = cells.split(r"\\").map(str::trim).filter(|row| !row.is_empty()).collect();
    let is_number =
        |row: &&str| row.bytes().all(is_of_number) && row.bytes().any(|byte| byte.is_ascii_digit());
    is_sum && rows.len() > 1 && rows.iter().all(is_number) && rows.concat() == run
}

fn is_of_number(byte: u8) -> bool {
    byte.is_ascii_digit() || b"-+./".contains(&byte)
}

#[cfg(test)]
mod tests {
    use crate::math::{MathConfig, is_equivalent};

    fn is_equal(reference: &str, answer: &str) -> bool {
        is_equivalent(reference, answer, &MathConfig::default())
    }

    #[test]
    fn rows_without_their_separator_are_found_again() {
        let column = r"\begin{pmatrix} -4 \\ -15 \\ 8 \end{pmatrix}";
        let spaced = r"\begin{pmatrix} -4 \ -15 \ 8 \end{pmatrix}";
        assert!(is_equal(spaced, column) && is_equal(column, spaced));
        assert!(is_equal(r"\begin{pmatrix}-4-158\end{pmatrix}", column));
        assert!(is_equal(
            r"\begin{pmatrix}-4-158\end{pmatrix}",
            r"\begin{bmatrix} -4 \\ -15 \\ 8 \end{bmatrix}"
        ));
        let wide = r"\begin{pmatrix} 1 & \frac12 \ 3 & 4 \end{pmatrix}";
        assert!(is_equal(wide, r"\begin{pmatrix} 1 & 0.5 \\ 3 & 4 \end{pmatrix}"));
    }

    #[test]
    fn what_differs_stays_different() {
        let column = r"\begin{pmatrix} -4 \\ -15 \\ 8 \end{pmatrix}";
        for reference in [
            r"\begin{pmatrix} -4 \ -15 \ 9 \end{pmatrix}",
            r"\begin{pmatrix} -15 \ -4 \ 8 \end{pmatrix}",
            r"\begin{pmatrix} -4 \ -15 \end{pmatrix}",
            r"\begin{pmatrix}-4-159\end{pmatrix}",
            r"\begin{pmatrix}4158\end{pmatrix}",
            r"\begin{pmatrix}-11\end{pmatrix}",
            "-4-158",
        ] {
            assert!(!is_equal(reference, column), "{reference}");
        }
        // One number may be a matrix of one cell. The answer is never the one whose numbers are run together.
        assert!(!is_equal(r"\begin{pmatrix} 12 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"));
        assert!(!is_equal(column, r"\begin{pmatrix}-4-158\end{pmatrix}"));
        assert!(!is_equal(
            r"\begin{pmatrix} 5\ \text{cm} \end{pmatrix}",
            r"\begin{pmatrix} 5 \\ \text{cm} \end{pmatrix}"
        ));
        assert!(is_equal(r"\begin{pmatrix} 1\ & 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"));
    }
}
