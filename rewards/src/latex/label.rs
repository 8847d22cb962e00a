//! Digits in groups that are no arithmetic: dates, telephone numbers, scores, numbers of articles.

/// Groups of one label. The number of a book has five; a limit keeps the search linear.
const GROUPS_MAX: usize = 8;

/// The length of a row of whole numbers with one kind of hyphen or slash between them and no spaces, which names
/// something: three groups or more, or two of which one has a leading zero. `3-1` and `1/2` are arithmetic.
pub(crate) fn label_length(text: &str) -> Option<usize> {
    let (mut at, mut groups, mut has_zero, mut joint) = (0, 0, false, None);
    loop {
        let digits = text[at..].bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        has_zero |= digits > 1 && text[at..].starts_with('0');
        (at, groups) = (at + digits, groups + 1);
        if groups > GROUPS_MAX {
            return None;
        }
        let next = text[at..].chars().next().filter(|&next| is_joint(next));
        match next {
            Some(next) if joint.is_none_or(|joint| joint == next) => {
                joint = Some(next);
                at += next.len_utf8();
            }
            Some(_) => return None,
            None => break,
        }
    }
    // A decimal point, a bracket or a power behind it make it a calculation.
    let rest = &text[at..];
    let goes_on = rest.starts_with(|next: char| next.is_alphanumeric() || "^_!({[".contains(next))
        || rest.strip_prefix('.').is_some_and(|rest| rest.starts_with(|next: char| next.is_ascii_digit()));
    (!goes_on && (groups > 2 || groups == 2 && has_zero)).then_some(at)
}

/// Whether one of the groups of a label has a leading zero, so that it is one wherever it stands.
pub(crate) fn has_leading_zero(label: &str) -> bool {
    label.split(is_joint).any(|group| group.len() > 1 && group.starts_with('0'))
}

/// A label with one sign for each kind of joint.
pub(crate) fn label_key(label: &str) -> String {
    label.chars().map(|sign| if is_joint(sign) && sign != '/' { '-' } else { sign }).collect()
}

fn is_joint(sign: char) -> bool {
    matches!(sign, '-' | '/' | '–' | '‐' | '‑')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_told_from_arithmetic() {
        for (text, length) in [
            ("2019-11-30", 10),
            ("2019/11/30 and", 10),
            ("0-306-40615-2.", 13),
            ("07/11", 5),
            ("12-05)", 5),
            ("7–8–9", 9),
        ] {
            assert_eq!(label_length(text), Some(length), "{text}");
        }
        for text in [
            "3-1", "7/8", "3", "8-x", "8-2-x", "8-2-1x", "8-2-1.5", "8-2/1", "8-2-3^2", "8--2-3", "9-4-", "-",
        ] {
            assert_eq!(label_length(text), None, "{text}");
        }
        assert!(has_leading_zero("7-08") && !has_leading_zero("7-80-0"));
        assert_eq!(label_key("7–8-9"), "7-8-9");
    }
}
