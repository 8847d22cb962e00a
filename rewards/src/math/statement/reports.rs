//! Sentences that report a count without a verb of being or having: `Tom planted 12 trees`. The verb must be known,
//! because most others say something else of the number: `I reject 12 trees`.

use std::collections::HashSet;
use std::sync::LazyLock;

use super::pieces::{Kind, Piece};
use super::words::{is_connector, is_danger, speaks_of_numbers};
use crate::latex::qualifier::{qualifies, words};
use crate::math::number::number_length;

/// Verbs of everyday sums, by what somebody did with so many things.
static VERBS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "planted plants plant baked bakes bake picked picks pick caught catches catch read wrote writes write \
         drew draws draw painted paints paint built builds build cooked cooks cook drank drink grew grows grow \
         harvested harvests brought brings bring carried carries carry delivered delivers deliver served serves \
         serve visited visits watched watches solved answered answers completed completes complete finished \
         finishes finish scored scores score won wins win hit made packed packs pack filled fills fill washed \
         washes cleaned cleans cut cuts knitted knits sewed sews folded folds gathered gathers gather collected \
         collects counted counts count hiked hikes swam swims swim rode rides ride cycled cycles jogged jogs \
         climbed climbs flew flies ran drove walked moved travelled traveled donated donates donate gave \
         shared borrowed borrows lent lends rented rents ordered orders order invited invites hired hires \
         trained trains taught teaches attended attends joined used owns own owned keeps keep kept stored stores \
         store added adds printed prints print typed types type sent sends send mailed posted played plays play \
         studied studies practiced practices slept sleeps sleep worked lasted lasts waited laid lays lay produced \
         manufactured assembled charged charges charge raised raises raise invested invests lost loses lose \
         gained gains gain consumed consumes consume burned burns burn poured pours pour mixed mixes placed places \
         put puts hung leaves left leave sees saw spotted noticed discovered discovers identified includes \
         comprises",
    )
});

/// Whether a sentence reports one count of something: it begins with its subject, then a known verb, the number and
/// what is counted, and no word speaks about numbers.
pub(super) fn is_plain_report(pieces: &[Piece], text: &str) -> bool {
    let values = pieces.iter().filter(|piece| piece.kind == Kind::Value).count();
    let Some(at) = pieces.iter().position(|piece| piece.kind == Kind::Value) else { return false };
    let value = text[pieces[at].start..pieces[at].end].trim_matches(['$', ' ', '*']);
    let is_number = number_length(value) == Some(value.len());
    let has_unit = pieces.get(at + 1).is_some_and(|piece| piece.kind == Kind::Word)
        || text[pieces[at].start..pieces[at].end].contains('$');
    let are_plain = pieces[..at].iter().all(|piece| match piece.kind {
        Kind::Word => {
            let word = piece.word(text);
            !is_no_verb(word)
                && (is_connector(word) || !is_danger(word) && !qualifies(word) && !speaks_of_numbers(word))
        }
        Kind::Mark(mark) => mark == ',',
        Kind::Value => true,
    });
    let begins = pieces[0].word(text).starts_with(char::is_uppercase);
    let leads = pieces[..at].iter().rposition(|piece| {
        piece.kind != Kind::Word || !is_connector(piece.word(text)) && piece.word(text) != "another"
    });
    let has_verb = leads.is_some_and(|at| at > 0 && VERBS.contains(pieces[at].word(text)));
    values == 1 && is_number && has_unit && are_plain && begins && has_verb
}

/// Whether a word before the verb makes its sentence no report: `Tom should plant 5 trees`.
fn is_no_verb(word: &str) -> bool {
    matches!(
        word,
        "might"
            | "may"
            | "could"
            | "should"
            | "would"
            | "shall"
            | "can"
            | "must"
            | "to"
            | "almost"
            | "nearly"
            | "did"
    )
}
