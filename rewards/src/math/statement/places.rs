//! The words behind prepositions: where, when and for what something is counted.

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::latex::qualifier::words;

/// Whether a word begins what a preposition is about: an article, a possessive.
pub(super) fn is_clause_opener(word: &str) -> bool {
    OPENERS.contains(word)
}

static OPENERS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "the a an his her their its our my your this that these those each every all both another such any one \
         him them us me you",
    )
});

/// Whether a word stands behind a preposition without an article and tells where, when or for what.
pub(super) fn is_place(word: &str) -> bool {
    PLACES.contains(word)
}

static PLACES: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "total all sum order length height width depth area volume size weight mass value diameter perimeter \
         circumference radius school home work class town bed noon night midnight dawn lunch dinner breakfast \
         supper food gas fuel rent tuition sale stock hand cash profit change revenue interest tax shipping \
         delivery transport transportation travel clothing furniture candy chocolate milk water bread rice flour \
         sugar butter fruit meat fish chicken pizza coffee tea juice medicine wood gold silver land soil \
         today tomorrow yesterday winter summer spring autumn fall january february march april june july \
         august september october november december monday tuesday wednesday thursday friday saturday sunday \
         morning afternoon evening symmetry induction definition hypothesis construction addition subtraction \
         multiplication division inspection counting average general full simplest degrees radians meters \
         dollars cents terms together charge people everyone advance exchange return use fun free traffic tip \
         charity college church camp practice training rehearsal exercise homework english math science history",
    )
});

/// Whether a word is a span of time.
pub(super) fn is_time(word: &str) -> bool {
    TIMES.contains(word)
}

static TIMES: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words("second seconds minute minutes hour hours day days week weeks month months year years")
});

/// Whether a word behind a unit says what is measured: `12 cm long`, and not `12 digits long`.
pub(super) fn is_measure_end(word: &str) -> bool {
    matches!(word, "long" | "high" | "tall" | "wide" | "deep" | "old")
}

/// Whether a word is a small number.
pub(super) fn is_number_word(word: &str) -> bool {
    NUMBERS.contains(word)
}

static NUMBERS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| words("one two three four five six seven eight nine ten eleven twelve zero"));

/// Whether a word among circumstances says that the number holds only there, or only by somebody's word.
pub(super) fn limits_claim(word: &str) -> bool {
    LIMITS.contains(word)
}

static LIMITS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "case cases limit latest earliest power worst bad odd account accounts estimate estimates guesswork sense \
         principle theory least most best fact contrary",
    )
});

/// Whether a remark behind a comma or in brackets may begin with this word.
pub(super) fn is_remark(word: &str) -> bool {
    REMARKS.contains(word)
}

static REMARKS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "the our exactly approximately roughly about rounded correct right final total altogether overall indeed \
         obviously clearly done inclusive simplified respectively counting including namely answer",
    )
});
