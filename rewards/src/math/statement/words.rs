//! The words of sentences that state an answer, by what they do there.

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::latex::qualifier::words;

/// Whether a word says that what stands before it is what stands behind it, or has it.
pub(super) fn is_copula(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    COPULAS.contains(word.as_str())
}

static COPULAS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "is are was were be it's that's equals equal equalled becomes became totals has have had gets get got \
         obtain obtains obtained find finds found gives give gave yields yield makes make made costs cost \
         pays pay paid earns earn earned needs need takes take took spends spend spent sells sell sold \
         travels travel uses use used contains contain receives receive received saves saved owes weighs \
         holds eats ate reads drinks buys bought walks runs drives drove works produces requires measures \
         collects collected scored ran walked conclude remain remains leaves leaving totaling totalling",
    )
});

/// Whether a word before `to be` says that something is so, as `turns out` and `found` do. Others, such as `said`,
/// `thought` and `supposed`, only pass it on.
pub(super) fn leads_to_be(word: &str) -> bool {
    matches!(
        word,
        "out"
            | "found"
            | "calculated"
            | "computed"
            | "determined"
            | "derived"
            | "evaluated"
            | "obtained"
            | "established"
            | "shown"
            | "seen"
            | "proven"
            | "proved"
            | "known"
            | "has"
            | "have"
            | "needs"
            | "need"
            | "ought"
    )
}

/// Whether a word leads to a conclusion; what stands before it is an argument.
pub(super) fn is_conclusion(word: &str) -> bool {
    matches!(
        word.to_ascii_lowercase().as_str(),
        "so" | "therefore"
            | "thus"
            | "hence"
            | "then"
            | "giving"
            | "yielding"
            | "consequently"
            | "implies"
            | "accordingly"
    )
}

/// Whether a word may stand between the copula and the value without a word about the value.
pub(super) fn is_connector(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    is_conclusion(&word) || CONNECTORS.contains(word.as_str())
}

static CONNECTORS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "approximately about roughly around approx exactly precisely simply just only equal equals to given \
         by a an the total of value number answer answers ans final correct right option choice letter \
         clearly also now actually indeed that there is are found yes definitely certainly surely obviously \
         again still then we us me our positive result solution solutions integer interval set pair ordered \
         fraction matrix vector polynomial expression function",
    )
});

/// Whether a word before a number makes it negative.
pub(super) fn is_sign_word(word: &str) -> bool {
    word.eq_ignore_ascii_case("minus") || word.eq_ignore_ascii_case("negative")
}

/// Whether a word denies or doubts what is said, or speaks of a part or multiple of it.
pub(super) fn is_danger(word: &str) -> bool {
    let word = word.to_ascii_lowercase().replace('’', "'");
    word.ends_with("n't") || DANGERS.contains(word.as_str())
}

static DANGERS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "not no never neither nor cannot nobody nothing none without maybe perhaps possibly probably \
         presumably supposedly allegedly if unless whether suppose assume assuming guess guessing guessed \
         think believe unsure uncertain unknown unclear unlikely doubt doubtful wrong incorrect incorrectly \
         wrongly false mistaken mistake opposite twice half double triple thrice bound guesses except \
         excluding between than rather instead versus fails fail impossible contradiction either naive reject \
         rejects rejected exclude excludes excluded discard discarded eliminate eliminated dismiss dismissed \
         deny denies denied refute refutes refuted disprove disproved disproves disproven contradict \
         contradicts contradicting contradicted violate violates violating violated ruled invalid extraneous \
         spurious inadmissible trap distractor decoy kidding joking joke typo bogus erroneous erroneously \
         mistakenly mistakes rival hardly barely scarcely alternatively",
    )
});

/// Whether a verb says what something has or takes, of which an answer may be a part only.
pub(super) fn is_possession(word: &str) -> bool {
    matches!(
        word.to_ascii_lowercase().as_str(),
        "has"
            | "have"
            | "had"
            | "uses"
            | "use"
            | "used"
            | "contains"
            | "contain"
            | "holds"
            | "requires"
            | "needs"
            | "takes"
            | "receives"
            | "saves"
            | "owes"
    )
}

/// Whether a reason begins with this word.
pub(super) fn is_reason(word: &str) -> bool {
    matches!(word.to_ascii_lowercase().as_str(), "because" | "since" | "as")
}

/// Whether what stands behind this word is said beside a count: `42 apples each day`.
pub(super) fn is_count_end(word: &str) -> bool {
    matches!(
        word.to_ascii_lowercase().as_str(),
        "a" | "an"
            | "each"
            | "every"
            | "total"
            | "left"
            | "remaining"
            | "altogether"
            | "together"
            | "overall"
            | "of"
            | "who"
            | "that"
            | "which"
            | "now"
            | "ago"
            | "later"
            | "away"
            | "long"
            | "old"
            | "high"
            | "tall"
            | "wide"
            | "deep"
            | "apart"
    )
}

/// Whether a word leads from a count to its circumstances.
pub(super) fn is_preposition(word: &str) -> bool {
    matches!(
        word.to_ascii_lowercase().as_str(),
        "in" | "on"
            | "at"
            | "for"
            | "from"
            | "with"
            | "by"
            | "during"
            | "after"
            | "before"
            | "to"
            | "among"
            | "across"
            | "inside"
            | "within"
    )
}

/// Whether a word speaks of numbers or of a part of one, so that a number behind it is not simply reported.
pub(super) fn speaks_of_numbers(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    NUMBERS.contains(word.as_str()) || word.ends_with("uple")
}

static NUMBERS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "number numbers integer integers prime primes multiple multiples divisor divisors factor factors root \
         roots square squares cube cubes power powers log logarithm ratio fraction part parts any every all \
         each some of than nearly almost near close times anything something reciprocal inverse sum \
         difference product quotient remainder or and another other first last next previous range step \
         question problem equation case the per",
    )
});

/// Whether a word of three letters names something that is counted, and is no product of variables.
pub(super) fn is_short_thing(word: &str) -> bool {
    matches!(
        word,
        "men"
            | "man"
            | "way"
            | "egg"
            | "cow"
            | "pig"
            | "dog"
            | "cat"
            | "hen"
            | "boy"
            | "car"
            | "bus"
            | "hat"
            | "pen"
            | "cup"
            | "box"
            | "bag"
            | "jar"
            | "can"
            | "pie"
            | "toy"
            | "row"
            | "bee"
            | "ant"
            | "fox"
            | "owl"
            | "bat"
            | "bed"
            | "key"
            | "map"
            | "kid"
            | "job"
            | "set"
            | "win"
            | "day"
    )
}
