//! Whole numbers that TOML cannot hold. Its parser names neither their key nor their bounds.

/// The bounds, in files and on the command line.
pub(super) const WHOLE_NUMBERS: &str =
    "a whole number of TOML is from -9223372036854775808 to 9223372036854775807";

/// What is wrong with a line whose value is such a number, with its key.
pub(super) fn too_large(text: &str, line: usize) -> Option<String> {
    let (key, value) = text.lines().nth(line - 1)?.split_once('=')?;
    let value = value.split('#').next()?.trim().replace('_', "");
    if !is_whole_number(&value) || value.parse::<i64>().is_ok() {
        return None;
    }
    let sections = text.lines().take(line).filter_map(|line| line.trim().strip_prefix('['));
    let section = sections.last().and_then(|name| name.split(']').next()).map(|name| name.trim_matches('['));
    let key = section.map_or(key.trim().to_owned(), |section| format!("{section}.{}", key.trim()));
    Some(format!("{key}: {value} does not fit; {WHOLE_NUMBERS}"))
}

/// Whether a text is digits, with or without a sign.
pub(super) fn is_whole_number(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit())
}
