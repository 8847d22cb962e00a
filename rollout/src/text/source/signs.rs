//! The sign `+`, which minijinja's expressions lack.

use super::{is_name, literal_end};

/// Words behind which an operand begins.
const BEFORE_OPERANDS: [&str; 8] = ["in", "and", "or", "not", "if", "elif", "else", "set"];

/// The tag with a space for each `+` that is a sign. Its own marks (`{%+`, `+%}`) stay.
pub(super) fn without_plus(tag: &str) -> String {
    let bytes = tag.as_bytes();
    let inner = 2 + usize::from(bytes.get(2).is_some_and(|mark| matches!(mark, b'+' | b'-')));
    let last = tag.len() - 2 - usize::from(bytes[..tag.len() - 2].ends_with(b"+"));
    let mut out = tag.as_bytes()[..inner].to_vec();
    let (mut at, mut behind_operand) = (inner, false);
    while at < last {
        let start = at;
        at += 1;
        match bytes[start] {
            quote @ (b'\'' | b'"') => {
                at = literal_end(tag, start, quote).unwrap_or(last);
                behind_operand = true;
            }
            b'+' if !behind_operand => {
                out.push(b' ');
                continue;
            }
            b')' | b']' | b'}' => behind_operand = true,
            byte if byte >= 0x80 || is_name(char::from(byte)) => {
                while at < last && (bytes[at] >= 0x80 || is_name(char::from(bytes[at]))) {
                    at += 1;
                }
                behind_operand = !BEFORE_OPERANDS.iter().any(|word| word.as_bytes() == &bytes[start..at]);
            }
            byte if byte.is_ascii_whitespace() => {}
            _ => behind_operand = false,
        }
        out.extend(&bytes[start..at]);
    }
    out.extend(&bytes[at.min(tag.len())..]);
    // Whole characters are copied, and a space stands for an ASCII character.
    String::from_utf8(out).unwrap_or_else(|_| tag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::without_plus;

    #[test]
    fn only_signs_go() {
        let cases = [
            ("{{ +1 }}", "{{  1 }}"),
            ("{{+ 1 }}", "{{+ 1 }}"),
            ("{{ a + +b }}", "{{ a +  b }}"),
            ("{{ (+n)+'+'+x[+1] }}", "{{ ( n)+'+'+x[ 1] }}"),
            ("{%+ if +n > 1 +%}", "{%+ if  n > 1 +%}"),
            ("{% else +%}", "{% else +%}"),
            ("{{ 'a' + é + 1e+5 }}", "{{ 'a' + é + 1e+5 }}"),
            ("{{ x if y else +z }}", "{{ x if y else  z }}"),
            ("{% set x = +1 %}", "{% set x =  1 %}"),
        ];
        for (tag, expected) in cases {
            assert_eq!(without_plus(tag), expected);
        }
    }
}
