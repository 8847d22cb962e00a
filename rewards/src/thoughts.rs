//! Where a text thinks: the marks that reasoning models put around their thoughts, in one list for every verifier.
//!
//! What is thought is no answer. The shapes of marks are read by rules and not as a table of strings, because models
//! write one name in many ways: `<think>`, `</THINK >`, `<seed:think>`, `<think effort="high">`, `[THINK]`,
//! `◁think▷`, `<|begin_of_thought|>`, `[BEGIN THINKING]`. A mark between quotes or backticks is spoken about and ends or begins nothing.
//! `format` and `think_length` ask for the one form of `tags` instead: they pay for a form, and this file only looks
//! for what must not count. Everything is linear in the text.

#[cfg(test)]
mod tests;

/// Words that a name of a thought ends with.
const WORDS: [&str; 17] = [
    "think",      // DeepSeek-R1, Qwen3, GLM, Kimi, Seed-OSS, Magistral
    "thinking",   // Command A, and prompts after Claude's
    "thought",    // Sky-T1, OpenThoughts, Gemma
    "thoughts",   // prompts that ask for them
    "reasoning",  // GRPO recipes that ask for `<reasoning>` and `<answer>`
    "reflection", // Reflection Llama, inside or behind its thoughts
    "analysis",   // gpt-oss, and prompts that ask for one before the answer
    "scratchpad", // prompts that ask for one
    "monologue",  // `<inner_monologue>`
    "cot",        // `<cot>`, a chain of thought
    "reason",     // the rest are of prompts that ask for thoughts before the answer
    "internal",
    "rationale",
    "deliberation",
    "contemplation",
    "brainstorming",
    "思考",
];
/// Words of the channels whose text is not the answer, in the format of gpt-oss (harmony). A commentary speaks to
/// tools.
const SILENT_CHANNELS: [&str; 6] = ["analysis", "commentary", "think", "thinking", "thought", "reasoning"];
/// What marks begin with.
const SIGNS: [char; 3] = ['<', '[', '◁'];
/// The same for the strict reading, which knows more of them: fences, signs that are escaped for HTML, and brackets of
/// other scripts.
const STRICT_SIGNS: [char; 8] = ['<', '[', '◁', '`', '&', '＜', '【', '⟨'];
/// What a fenced block begins and ends with.
const FENCE: &str = "```";
/// The name of a fenced block of thoughts.
const FENCED: Name = Name { sign: '`', word: "fence" };
/// The one of MedGemma: `<unused94>thought` ... `<unused95>`.
const UNUSED: Name = Name { sign: '<', word: "unused" };
/// Quotes and backticks around a mark that is only spoken about.
const QUOTES: [char; 9] = ['`', '"', '\'', '“', '”', '‘', '’', '«', '»'];
/// Bytes of the longest mark, attributes and all.
const MARK_BYTES_MAX: usize = 256;
/// Begins the message of a channel.
const MESSAGE: &str = "<|message|>";

/// What an opening mark has in common with the one that closes its thought: the sign that it begins with and the word
/// for a thought in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    sign: char,
    word: &'static str,
}

/// What a mark says about the text behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// A thought begins, perhaps inside another.
    Opens(Name),
    /// The thought of this name ends.
    Closes(Name),
    /// A channel for thoughts begins. Channels are not nested.
    Channel,
    /// A channel for the answer begins, or the channel for thoughts ends.
    Answer,
}

/// The text behind the last mark, or all of it without one; `None` if that mark begins a thought.
pub(crate) fn behind_last_thought(text: &str) -> Option<&str> {
    // One search a sign: a search for one byte is much faster than one for any of several characters.
    let last = SIGNS.iter().filter_map(|sign| {
        text.rmatch_indices(*sign).find_map(|(at, _)| mark(text, at).map(|(mark, end)| (at, mark, end)))
    });
    match last.max_by_key(|(at, _, _)| *at) {
        None => Some(text),
        Some((_, Mark::Closes(_) | Mark::Answer, end)) => Some(&text[end..]),
        Some((_, Mark::Opens(_) | Mark::Channel, _)) => None,
    }
}

/// Whether a text ends inside the block that Sky-T1 and OpenThinker write behind their thought, so that it was cut off.
pub(crate) fn ends_in_solution(text: &str) -> bool {
    let begins = |at: &usize| text[*at..].starts_with("<|begin_of_solution|>");
    // A search for one byte is much faster than one for the whole mark.
    let begin = text.rmatch_indices('<').map(|(at, _)| at).find(begins);
    begin.is_some_and(|at| !text[at..].contains("<|end_of_solution|>"))
}

/// The part of a reference that is its answer: reference solutions of reasoning models are often kept with their
/// thoughts. `None` where nothing but thoughts is there.
pub fn reference_behind_thoughts(reference: &str) -> Option<&str> {
    match behind_last_thought(reference) {
        Some(whole) if whole.len() == reference.len() => Some(reference),
        rest => rest.map(str::trim).filter(|rest| !rest.is_empty()),
    }
}

/// What a text says outside of thoughts at its end: the text behind the last thought, or `None` if a thought is still
/// open there. This is the strict reading: a mark closes only the innermost thought, and only if that has its name. A
/// text that quotes another one's thoughts, or half of them, inside its own has not come to an answer. A closing mark
/// outside of thoughts ends one that the chat template has opened.
pub(crate) fn outside_thoughts(text: &str) -> Option<&str> {
    if let Some(rest) = without_special_tokens(text) {
        return rest;
    }
    let (mut open, mut in_channel, mut behind) = (Vec::new(), false, 0);
    for (at, _) in text.match_indices(STRICT_SIGNS) {
        // A sign inside the mark before it, as in its attributes, is part of it.
        if at < behind {
            continue;
        }
        let is_fenced = open.last() == Some(&FENCED);
        let Some((mark, end)) = fence(text, at, is_fenced).or_else(|| mark(text, at)) else { continue };
        behind = end;
        match mark {
            Mark::Opens(name) => open.push(name),
            Mark::Closes(name) if open.last() == Some(&name) => drop(open.pop()),
            // Nothing is open that this could close, or it closes another thought than the innermost one.
            Mark::Closes(_) => {}
            Mark::Channel => in_channel = true,
            Mark::Answer => (open, in_channel) = (Vec::new(), false),
        }
    }
    (open.is_empty() && !in_channel).then(|| &text[behind..])
}

/// The answer of a gpt-oss reply whose special tokens a server has dropped, so that `analysisWe need ...` and
/// `assistantfinalVerdict: YES` are glued together; the inner `None` where there is no answer.
fn without_special_tokens(text: &str) -> Option<Option<&str>> {
    let rest = text.trim_start().strip_prefix("analysis")?;
    let is_glued = rest.starts_with(|next: char| next.is_uppercase() || next.is_numeric());
    is_glued.then(|| rest.rsplit_once("assistantfinal").map(|(_, answer)| answer))
}

/// The mark that begins at this sign, and where it ends.
fn mark(text: &str, at: usize) -> Option<(Mark, usize)> {
    let rest = &text[at..];
    // Most brackets are none, which one look tells.
    if rest.starts_with('[') && !rest[1..].starts_with(['/', 't', 'T', 'b', 'B', 's', 'S', 'e', 'E']) {
        return None;
    }
    let rest = &rest[..rest.floor_char_boundary(MARK_BYTES_MAX)];
    let (mark, length) = match rest.chars().next()? {
        '<' => special_token(rest).or_else(|| tag(rest))?,
        '[' => bracketed(rest, '[', ']', think)?,
        '◁' => bracketed(rest, '◁', '▷', thought)?,
        '＜' => bracketed(rest, '＜', '＞', thought)?,
        '【' => bracketed(rest, '【', '】', thought)?,
        '⟨' => bracketed(rest, '⟨', '⟩', thought)?,
        _ => escaped(rest)?,
    };
    let end = at + length;
    let is_quoted = text[..at].ends_with(QUOTES) && text[end..].starts_with(QUOTES);
    (!is_quoted).then_some((mark, end))
}

/// A line that begins a fenced block of thoughts (```` ```thinking ````), or the one that ends the block that is open.
fn fence(text: &str, at: usize, is_open: bool) -> Option<(Mark, usize)> {
    let rest =
        text[at..].strip_prefix(FENCE).filter(|_| text[..at].is_empty() || text[..at].ends_with('\n'))?;
    let line = &rest[..rest[..rest.floor_char_boundary(MARK_BYTES_MAX)].find('\n').unwrap_or(rest.len())];
    let end = text.len() - rest.len() + line.len();
    match line.trim() {
        "" if is_open => Some((Mark::Closes(FENCED), end)),
        name if name.len() < MARK_BYTES_MAX && thought(name).is_some() => Some((Mark::Opens(FENCED), end)),
        _ => None,
    }
}

/// `&lt;think&gt;`: a mark that was escaped for HTML.
fn escaped(rest: &str) -> Option<(Mark, usize)> {
    let (inner, after) = rest.strip_prefix("&lt;")?.split_once("&gt;")?;
    let plain = format!("<{inner}>");
    let (mark, length) = special_token(&plain).or_else(|| tag(&plain))?;
    (length == plain.len()).then_some((mark, rest.len() - after.len()))
}

/// `<|begin_of_thought|>`, `<|END_THINKING|>`, `<｜think▁start｜>`, and the channels of harmony and of Gemma.
fn special_token(rest: &str) -> Option<(Mark, usize)> {
    const CHANNEL_END: &str = "<channel|>";
    if rest.starts_with(CHANNEL_END) {
        return Some((Mark::Answer, CHANNEL_END.len()));
    }
    let inner = rest.strip_prefix("<|").or_else(|| rest.strip_prefix("<｜"))?;
    let (name, after) = inner.split_once('>')?;
    let name = name.trim_end_matches(['|', '｜']).to_lowercase();
    let length = rest.len() - after.len();
    let words: Vec<&str> = name.split([' ', '_', '▁', '-', '/']).collect();
    let has = |any: &[&str]| words.iter().any(|word| any.contains(word));
    let inner = Name { sign: '<', word: "inner" };
    match name.as_str() {
        "channel" => return Some(channel(rest, length)),
        // Apertus.
        "inner_prefix" => return Some((Mark::Opens(inner), length)),
        "inner_suffix" => return Some((Mark::Closes(inner), length)),
        _ if has(&["no"]) => return None,
        _ => {}
    }
    let word = WORDS.iter().find(|word| words.contains(word))?;
    let name_of = Name { sign: '|', word };
    let closes = name.starts_with('/') || has(&["end", "stop"]);
    Some((if closes { Mark::Closes(name_of) } else { Mark::Opens(name_of) }, length))
}

/// The channel whose name stands behind `length` bytes: `analysis<|message|>` and the like.
fn channel(rest: &str, length: usize) -> (Mark, usize) {
    let after = &rest[length..];
    let name = after.trim_start();
    let name = &name[..name.find(|next: char| !next.is_ascii_alphabetic()).unwrap_or(name.len())];
    let is_silent = SILENT_CHANNELS.iter().any(|silent| name.eq_ignore_ascii_case(silent));
    let line = after.lines().next().unwrap_or_default();
    let end = match line.find(MESSAGE) {
        Some(at) => at + MESSAGE.len(),
        None => after.len() - after.trim_start().len() + name.len(),
    };
    (if is_silent { Mark::Channel } else { Mark::Answer }, length + end)
}

/// `<think>`, `</seed:think>`, `<reasoning effort="high">`. One that closes itself holds no thought.
fn tag(rest: &str) -> Option<(Mark, usize)> {
    let inner = rest.strip_prefix('<')?;
    let (closes, inner) = match inner.strip_prefix('/') {
        Some(inner) => (true, inner.trim_start()),
        None => (false, inner),
    };
    let is_part = |next: char| next.is_alphanumeric() || ['_', '-', ':', '.'].contains(&next);
    let (name, after) = inner.split_at(inner.find(|next| !is_part(next))?);
    if name.eq_ignore_ascii_case("unused95") && after.starts_with('>') {
        return Some((Mark::Closes(UNUSED), rest.len() - after.len() + 1));
    }
    if name.starts_with("unused") && after.starts_with(">thought") {
        return Some((Mark::Opens(UNUSED), rest.len() - after.len() + ">thought".len()));
    }
    let closes = closes || ends(name);
    let name = Name { sign: '<', word: thought(name)? };
    let (attributes, after) = after.split_once('>')?;
    // In `a <think and b> c` nothing is a tag.
    let is_tag = attributes.trim().is_empty()
        || (attributes.starts_with(char::is_whitespace)
            && attributes.contains('=')
            && !closes
            && !attributes.contains('<')
            && !attributes.ends_with('/'));
    let mark = if closes { Mark::Closes(name) } else { Mark::Opens(name) };
    is_tag.then(|| (mark, rest.len() - after.len()))
}

/// `[THINK]` and `◁/think▷`: a name between two signs.
fn bracketed(
    rest: &str,
    open: char,
    close: char,
    word_of: impl Fn(&str) -> Option<&'static str>,
) -> Option<(Mark, usize)> {
    let (name, after) = rest.strip_prefix(open)?.split_once(close)?;
    let (closes, name) = match name.strip_prefix('/') {
        Some(name) => (true, name),
        None => (ends(name), name),
    };
    let name = Name { sign: open, word: word_of(name)? };
    let mark = if closes { Mark::Closes(name) } else { Mark::Opens(name) };
    Some((mark, rest.len() - after.len()))
}

/// The word of brackets that are Magistral's, or that say themselves that something begins or ends (`[BEGIN THINKING]`,
/// `[END OF THOUGHT]`). Other words in brackets are headings.
fn think(name: &str) -> Option<&'static str> {
    if let Some(word) = ["think", "thinking"].into_iter().find(|word| name.eq_ignore_ascii_case(word)) {
        return Some(word);
    }
    let (first, last) = name.split_once([' ', '_', '-'])?;
    let last = if last.get(..3).is_some_and(|of| of.eq_ignore_ascii_case("of ")) { &last[3..] } else { last };
    let is_border = BEGINS.iter().chain(&ENDS).any(|word| first.eq_ignore_ascii_case(word));
    WORDS.into_iter().find(|word| is_border && last.eq_ignore_ascii_case(word))
}

const BEGINS: [&str; 2] = ["begin", "start"];
const ENDS: [&str; 3] = ["end", "stop", "close"];

/// Whether a name says that it ends something: `end_thinking`.
fn ends(name: &str) -> bool {
    let first = name.split([' ', '_', '-']).next().filter(|first| first.len() < name.len());
    first.is_some_and(|first| ENDS.iter().any(|word| first.eq_ignore_ascii_case(word)))
}

/// The word by which a tag of this name holds a thought: its last part ends with it, as in `thinking_process`,
/// `chain_of_thought` and `antThinking`. `no_think` asks for none.
fn thought(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let name = name.strip_suffix("process").unwrap_or(&name).trim_end_matches(['_', '-']);
    let mut parts = name.rsplit(['_', '-', ':', '.']);
    let last = parts.next().unwrap_or_default();
    let is_negated = last.starts_with("no") || parts.next() == Some("no");
    WORDS.into_iter().find(|word| !is_negated && last.ends_with(word))
}
