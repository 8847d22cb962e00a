//! What cells of a Markdown table hold: one line each, without the marks of a table.

/// A table's row.
pub(super) fn row(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// The head of a table.
pub(super) fn head(names: &[&str]) -> String {
    let marks = vec!["---"; names.len()];
    row(names) + &row(&marks)
}

/// A text in one line, whose bars are no borders of cells.
pub(super) fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// A text as code.
pub(super) fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

/// The first sentence of a text, with its full stop.
pub(super) fn first_sentence(text: &str) -> String {
    let text = line(text);
    let end = text.char_indices().find(|(place, c)| {
        // A point inside a name, a number or `..` ends no sentence, nor does one before a small letter or in `et al.`.
        let is_name = text[..*place].ends_with("et al");
        let mut rest = text[place + c.len_utf8()..].chars();
        *c == '.'
            && !is_name
            && rest.next().is_none_or(char::is_whitespace)
            && rest.next().is_none_or(|c| !c.is_lowercase())
    });
    let sentence = end.map_or(text.as_str(), |(place, _)| &text[..=place]).to_owned();
    // Links of rustdoc lead nowhere in Markdown.
    sentence.replace("[`", "`").replace("`]", "`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_ends_with_its_full_stop() {
        assert_eq!(
            first_sentence("As in arXiv 2509.19128, one pass. More."),
            "As in arXiv 2509.19128, one pass."
        );
        assert_eq!(
            first_sentence("Between 1.0 and 2.0 (e.g. half);\n0 is never"),
            "Between 1.0 and 2.0 (e.g. half); 0 is never"
        );
        assert_eq!(first_sentence("[`Verifier`]: a | b."), "`Verifier`: a \\| b.");
    }
}
