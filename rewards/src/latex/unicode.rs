//! Unicode mathematics in the spelling of LaTeX: `½` is `\frac{1}{2}`, `x²` is `x^{2}`, full-width digits are digits, and
//! characters without width are gone. Text without such characters is not copied.

use std::borrow::Cow;

/// The text in ASCII wherever a character has a spelling there; other characters stay as they are.
pub(crate) fn folded(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut folded = String::with_capacity(text.len() + 32);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        rest = if first.is_ascii() && !after.starts_with(is_bar) {
            folded.push(first);
            after
        } else if first.is_ascii() {
            barred(rest, &mut folded)
        } else if let Some(behind) = slashed(rest, &mut folded) {
            behind
        } else if let Some(behind) = scripts(rest, &mut folded) {
            behind
        } else {
            character(first, &mut folded);
            after
        };
    }
    Cow::Owned(folded)
}

/// A bar or dot over the character before it.
fn is_bar(character: char) -> bool {
    matches!(character, '\u{304}' | '\u{305}' | '\u{307}')
}

/// Digits with a bar over each, `0.1̅6̅`. A bar over anything else says nothing here.
fn barred<'a>(text: &'a str, folded: &mut String) -> &'a str {
    let mut digits = String::new();
    let mut rest = text;
    while let Some(digit) = rest.chars().next().filter(char::is_ascii_digit) {
        let Some(behind) = rest[1..].strip_prefix(is_bar) else { break };
        digits.push(digit);
        rest = behind;
    }
    if digits.is_empty() {
        folded.push_str(&text[..1]);
        return text[1..].trim_start_matches(is_bar);
    }
    folded.push_str(&format!(r"\overline{{{digits}}}"));
    rest
}

/// `¹⁄₂`: raised digits, a fraction slash and lowered digits.
fn slashed<'a>(text: &'a str, folded: &mut String) -> Option<&'a str> {
    let (top, rest) = run(text, superscript)?;
    let rest = rest.strip_prefix(['⁄', '∕', '/'])?;
    let (bottom, rest) = run(rest, subscript)?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(&top) && is_number(&bottom)).then(|| {
        folded.push_str(&format!(r"\frac{{{top}}}{{{bottom}}}"));
        rest
    })
}

/// A run of raised or lowered characters as one script.
fn scripts<'a>(text: &'a str, folded: &mut String) -> Option<&'a str> {
    let (mark, (inner, rest)) = match run(text, superscript) {
        Some(found) => ('^', found),
        None => ('_', run(text, subscript)?),
    };
    folded.push_str(&format!("{mark}{{{inner}}}"));
    Some(rest)
}

/// The characters at the start that a map knows, and the text behind them. A run is no longer than any exponent.
fn run(text: &str, map: fn(char) -> Option<char>) -> Option<(String, &str)> {
    const RUN_MAX: usize = 64;
    let inner: String = text.chars().take(RUN_MAX).map_while(map).collect();
    let length: usize = text.chars().take(inner.chars().count()).map(char::len_utf8).sum();
    (length > 0).then(|| (inner, &text[length..]))
}

fn superscript(character: char) -> Option<char> {
    const RAISED: &str = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣʸᵃᵇᶜᵈᵉᵏᵐᵖᵗ";
    const PLAIN: &str = "0123456789+-=()nixyabcdekmpt";
    mapped(character, RAISED, PLAIN)
}

fn subscript(character: char) -> Option<char> {
    const LOWERED: &str = "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓₕₖₗₘₙₚₛₜᵢⱼᵣᵤᵥ";
    const PLAIN: &str = "0123456789+-=()aeoxhklmnpstijruv";
    mapped(character, LOWERED, PLAIN)
}

fn mapped(character: char, from: &str, to: &str) -> Option<char> {
    // The blocks that hold all of them; most characters are in none.
    let is_script = matches!(
        u32::from(character),
        0xb2 | 0xb3 | 0xb9 | 0x2b0..=0x2ff | 0x1d2c..=0x1d6a | 0x2070..=0x209f | 0x2c7c
    );
    if !is_script {
        return None;
    }
    from.chars().position(|known| known == character).and_then(|at| to.chars().nth(at))
}

/// Appends one character in its other spelling.
fn character(character: char, folded: &mut String) {
    let code = u32::from(character);
    match code {
        // Without width: joiners, marks of direction, invisible operators, the mark of byte order, variants.
        // A bar without a character of ASCII before it says nothing.
        0xad
        | 0x304
        | 0x305
        | 0x307
        | 0x200b..=0x200f
        | 0x202a..=0x202e
        | 0x2060..=0x2064
        | 0xfe00..=0xfe0f
        | 0xfeff => return,
        0xa0 | 0x2000..=0x200a | 0x202f | 0x205f | 0x3000 => return folded.push(' '),
        // Full-width forms of ASCII.
        0xff01..=0xff5e => return folded.extend(char::from_u32(code - 0xff01 + 0x21)),
        // Letters and digits in the types of mathematics.
        0x1d400..=0x1d6a3 => return folded.push(letter((code - 0x1d400) % 52)),
        0x1d6a8..=0x1d7cb => {
            // Capitals, nabla, small letters, and variants of some of them.
            let greek = match (code - 0x1d6a8) % 58 {
                place @ 0..=24 => 0x391 + place,
                25 => 0x2207,
                place @ 26..=50 => 0x3b1 + place - 26,
                _ => return,
            };
            return char::from_u32(greek).into_iter().for_each(|greek| self::character(greek, folded));
        }
        // Digits of other scripts.
        0x660..=0x669 => return folded.extend(char::from_digit(code - 0x660, 10)),
        0x6f0..=0x6f9 => return folded.extend(char::from_digit(code - 0x6f0, 10)),
        0x966..=0x96f => return folded.extend(char::from_digit(code - 0x966, 10)),
        0x9e6..=0x9ef => return folded.extend(char::from_digit(code - 0x9e6, 10)),
        0x1d7ce..=0x1d7ff => return folded.extend(char::from_digit((code - 0x1d7ce) % 10, 10)),
        _ => {}
    }
    if let Some((_, spelling)) = SPELLINGS.iter().find(|(known, _)| known.contains(character)) {
        return folded.push_str(spelling);
    }
    match GREEK.iter().find(|entry| entry.0 == character) {
        Some((_, name)) => {
            folded.push('\\');
            folded.push_str(name);
            folded.push(' ');
        }
        None => folded.push(character),
    }
}

/// The letter at a place of an alphabet of capitals and small letters.
fn letter(place: u32) -> char {
    let base = if place < 26 { b'A' } else { b'a' };
    char::from(base + (place % 26) as u8)
}

/// Characters and how LaTeX writes them.
const SPELLINGS: &[(&str, &str)] = &[
    ("−–—‐‑‒―﹣", "-"),
    ("、﹐", ","),
    ("。", "."),
    ("∶", ":"),
    ("∗✱", "*"),
    ("×✕✖⨯", r"\times "),
    ("·∙•⋅‧・", r"\cdot "),
    ("÷", r"\div "),
    ("∕⁄", "/"),
    ("′’‘ʹ", "'"),
    ("″", "''"),
    ("“”", "\""),
    ("±", r"\pm "),
    ("∓", r"\mp "),
    ("√", r"\sqrt "),
    ("∛", r"\sqrt[3]"),
    ("∜", r"\sqrt[4]"),
    ("½", r"\frac{1}{2}"),
    ("⅓", r"\frac{1}{3}"),
    ("⅔", r"\frac{2}{3}"),
    ("¼", r"\frac{1}{4}"),
    ("¾", r"\frac{3}{4}"),
    ("⅕", r"\frac{1}{5}"),
    ("⅖", r"\frac{2}{5}"),
    ("⅗", r"\frac{3}{5}"),
    ("⅘", r"\frac{4}{5}"),
    ("⅙", r"\frac{1}{6}"),
    ("⅚", r"\frac{5}{6}"),
    ("⅐", r"\frac{1}{7}"),
    ("⅛", r"\frac{1}{8}"),
    ("⅜", r"\frac{3}{8}"),
    ("⅝", r"\frac{5}{8}"),
    ("⅞", r"\frac{7}{8}"),
    ("⅑", r"\frac{1}{9}"),
    ("⅒", r"\frac{1}{10}"),
    ("∞", r"\infty "),
    ("∅", r"\emptyset "),
    ("ℝ", r"\mathbb{R}"),
    ("ℤ", r"\mathbb{Z}"),
    ("ℕ", r"\mathbb{N}"),
    ("ℚ", r"\mathbb{Q}"),
    ("ℂ", r"\mathbb{C}"),
    ("≤⩽≦", r"\le "),
    ("≥⩾≧", r"\ge "),
    ("≠", r"\ne "),
    ("≈", r"\approx "),
    ("≅", r"\cong "),
    ("∼", r"\sim "),
    ("≡", r"\equiv "),
    ("∝", r"\propto "),
    ("∈", r"\in "),
    ("∉", r"\notin "),
    ("⊂", r"\subset "),
    ("⊆", r"\subseteq "),
    ("⊃", r"\supset "),
    ("⊇", r"\supseteq "),
    ("∪", r"\cup "),
    ("∩", r"\cap "),
    ("∖", r"\setminus "),
    ("∧", r"\land "),
    ("∨", r"\lor "),
    ("¬", r"\neg "),
    ("∀", r"\forall "),
    ("∃", r"\exists "),
    ("→", r"\to "),
    ("⇒⟹", r"\Rightarrow "),
    ("⇔⟺", r"\Leftrightarrow "),
    ("∴", r"\therefore "),
    ("∑", r"\sum "),
    ("∏", r"\prod "),
    ("∫", r"\int "),
    ("∂", r"\partial "),
    ("∇", r"\nabla "),
    ("⌊", r"\lfloor "),
    ("⌋", r"\rfloor "),
    ("⌈", r"\lceil "),
    ("⌉", r"\rceil "),
    ("⟨〈", r"\langle "),
    ("⟩〉", r"\rangle "),
    ("【", "["),
    ("】", "]"),
    ("∣", "|"),
    ("∥‖", r"\|"),
    ("⊥", r"\perp "),
    ("…", "..."),
    ("⋯", r"\cdots "),
    ("˚º", "°"),
    ("∘", r"\circ "),
    ("⊕", r"\oplus "),
    ("⊗", r"\otimes "),
    ("∆", r"\Delta "),
    ("ϵ", r"\epsilon "),
    ("ℎ", "h"),
    ("ℯⅇ", "e"),
    ("ⅈ", "i"),
    ("ⅆ", "d"),
    ("㎝", "cm"),
    ("㎜", "mm"),
    ("㎞", "km"),
    ("㎏", "kg"),
    ("㎡", "m^2"),
    ("￡", "£"),
    ("￥", "¥"),
    ("〔", "("),
    ("〕", ")"),
    ("℃", "°C"),
    ("℉", "°F"),
    ("\u{2126}", r"\Omega "),
    ("\u{b5}", r"\mu "),
];

/// Greek letters and others that stand for a value, and the names of their commands.
pub(super) const GREEK: [(char, &str); 41] = [
    ('π', "pi"),
    ('α', "alpha"),
    ('β', "beta"),
    ('γ', "gamma"),
    ('δ', "delta"),
    ('ε', "epsilon"),
    ('ε', "varepsilon"),
    ('ζ', "zeta"),
    ('η', "eta"),
    ('θ', "theta"),
    ('ϑ', "vartheta"),
    ('ι', "iota"),
    ('κ', "kappa"),
    ('λ', "lambda"),
    ('μ', "mu"),
    ('ν', "nu"),
    ('ξ', "xi"),
    ('ρ', "rho"),
    ('ρ', "varrho"),
    ('σ', "sigma"),
    ('τ', "tau"),
    ('υ', "upsilon"),
    ('φ', "phi"),
    ('ϕ', "varphi"),
    ('χ', "chi"),
    ('ψ', "psi"),
    ('ω', "omega"),
    ('Γ', "Gamma"),
    ('Δ', "Delta"),
    ('Θ', "Theta"),
    ('Λ', "Lambda"),
    ('Ξ', "Xi"),
    ('Π', "Pi"),
    ('Σ', "Sigma"),
    ('Υ', "Upsilon"),
    ('Φ', "Phi"),
    ('Ψ', "Psi"),
    ('Ω', "Omega"),
    ('ℓ', "ell"),
    ('∠', "angle"),
    ('△', "triangle"),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn characters_have_the_spelling_of_latex() {
        for (text, expected) in [
            ("7¾", r"7\frac{3}{4}"),
            ("3¹²", "3^{12}"),
            ("aⁿ⁺¹", "a^{n+1}"),
            ("x₁₂", "x_{12}"),
            ("⁵⁄₈", r"\frac{5}{8}"),
            ("５＋７", "5+7"),
            ("（２，３）", "(2,3)"),
            ("4、6", "4,6"),
            ("\u{feff}8\u{2060}", "8"),
            ("∛5", r"\sqrt[3]5"),
            ("2·3", r"2\cdot 3"),
            ("0.1\u{305}6\u{305}", r"0.\overline{16}"),
            ("𝑥𝟓", "x5"),
            ("20℃", "20°C"),
            ("x≥π", r"x\ge \pi "),
            ("naïve", "naïve"),
        ] {
            assert_eq!(folded(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn folding_twice_is_folding_once(text in any::<String>()) {
            let once = folded(&text).into_owned();
            prop_assert_eq!(folded(&once), once.as_str());
            prop_assert!(once.len() <= 16 * text.len());
        }
    }
}
