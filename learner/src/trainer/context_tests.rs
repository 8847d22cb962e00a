//! Trajectories of several contexts, with tokens that were given between drawn ones: one sequence a context, one advantage
//! for all of them.

use kernels::Packed;
use trajectory::{Context, Group, Segment, Source, Span, Token};

use super::*;
use crate::advantage::mean_std;
use crate::loss::Denominator;
use crate::testing::{cpu, decoder, group, learner_config, optimizer_config, relative_error, weights_of};
use crate::unit::{Tokens, UnitSequence};

/// What each drawn token of the group is worth, whatever the model says.
#[derive(Debug)]
struct GivenSlopes;

impl Loss for GivenSlopes {
    fn unit(&self, unit: &[CompletionStats<'_>]) -> Vec<TokenLoss> {
        let [completion] = unit else { panic!("a unit of {}", unit.len()) };
        let token = TokenLoss { dloss_dlogprob: -completion.advantage, ..TokenLoss::default() };
        vec![token; completion.tokens()]
    }

    fn denominator(&self) -> Denominator {
        Denominator::Tokens
    }
}

fn learner() -> Trainer {
    Trainer::new(cpu(), decoder(1), learner_config(), optimizer_config("sgd"), 1.0, 10, None).unwrap()
}

fn drawn(ids: &[u32]) -> Span {
    let tokens = ids.iter().map(|id| Token { id: *id, logprob: -1.0 }).collect();
    Span::Drawn(Segment { version: 1, tokens, drawn_at: None })
}

fn given(by: Source, ids: &[u32]) -> Span {
    Span::Given { by, ids: ids.to_vec() }
}

/// A right completion of 4 tokens, 3 and 2 more in a second context around an answer of a tool, and a wrong one of 6 in
/// one context.
fn two_contexts() -> Group {
    let mut group = group(0, 3, &[(true, 0.0, 4), (false, 0.0, 6)]);
    let spans = vec![
        given(Source::Mode, &[5, 6]),
        drawn(&[7, 8, 9]),
        given(Source::Environment, &[10, 11]),
        drawn(&[12, 13]),
        given(Source::Environment, &[14]),
    ];
    group.completions[0].completion.contexts.push(Context { spans });
    group
}

/// The sequences of [`two_contexts`] as units of their own, written out.
fn apart(group: &Group, advantages: [f64; 2]) -> Vec<Unit<'_>> {
    let [first, other] = [0, 1].map(|member| &group.completions[member].completion.contexts);
    let behind_tool = &first[1].spans[1..4];
    let sequence = |prompt, spans| UnitSequence { prompt, tokens: Tokens::Drawn(spans), given: &[] };
    let prompt = &group.prompt.tokens[..];
    [
        (advantages[0], sequence(prompt, &first[0].spans[1..])),
        (advantages[0], sequence(&[5, 6], behind_tool)),
        (advantages[1], sequence(prompt, &other[0].spans[1..])),
    ]
    .map(|(advantage, sequence)| Unit::of(UnitCompletion { advantage, ..UnitCompletion::of(sequence) }))
    .to_vec()
}

/// GRPO's advantages, by hand.
fn advantages() -> [f64; 2] {
    let (mean, std) = mean_std(&[1.0, 0.0]);
    [1.0, 0.0].map(|reward| (reward - mean) / (std + 1e-6))
}

#[test]
fn a_trajectory_of_two_contexts_has_the_gradient_of_its_sequences() {
    let group = two_contexts();
    let mut whole = learner();
    let before = weights_of(whole.decoder());
    let report = whole.step(std::slice::from_ref(&group)).unwrap();
    let mut parts = learner();
    let units = apart(&group, advantages());
    assert_eq!(units.iter().map(Unit::trained_tokens).collect::<Vec<_>>(), [4, 5, 6]);
    let of_parts = parts.step_units(&units, &GivenSlopes).unwrap();
    let moved = |learner: &Trainer| -> Vec<f32> {
        weights_of(learner.decoder()).iter().zip(&before).map(|(after, before)| after - before).collect()
    };
    let (whole, parts) = (moved(&whole), moved(&parts));
    assert!(whole.iter().any(|change| change.abs() > 1e-3), "the step moved nothing");
    let error = relative_error(&whole, &parts);
    assert!(error < 1e-5, "{error}");
    // On the policy's own numbers the loss is the mean of the negative advantages over all drawn tokens.
    let update = report.update.unwrap();
    let [right, wrong] = advantages();
    let expected = -(9.0 * right + 6.0 * wrong) / 15.0;
    assert!((update.loss - expected).abs() < 1e-6, "{} is not {expected}", update.loss);
    assert_eq!((update.completion_tokens, of_parts.target_tokens), (15, 15));
    assert_eq!((report.lengths.all.max, report.lengths.all.min), (9.0, 6.0));
    // Prompts of 3 tokens, twice, and the second context up to its last drawn token.
    assert_eq!(update.packed_tokens, (3 + 4) + (3 + 6) + (2 + 3 + 2 + 2));
}

/// Log-probs of a step are those of each context alone, one for each drawn token, and none for those that were given.
#[test]
fn a_step_tells_the_log_prob_of_every_drawn_token() {
    let group = two_contexts();
    let mut learner = learner();
    let ids: Vec<u32> = group.completions[0].completion.contexts[0].ids().collect();
    let second = [5, 6, 7, 8, 9, 10, 11, 12, 13];
    let stats = learner.passes.statistics(learner.decoder(), &Packed::new([&ids[..], &second[..]]));
    let entry = |place: usize| stats.logprobs[place];
    // The entry of a token is the one before it; the second sequence begins at 7.
    let expected: Vec<f32> = [2, 3, 4, 5, 8, 9, 10, 13, 14].map(entry).to_vec();
    let report = learner.step(std::slice::from_ref(&group)).unwrap();
    let first = &report.completions[0];
    assert!(relative_error(&first.learner_logprobs, &expected) < 1e-5, "{first:?}");
    assert_eq!(report.completions[1].learner_logprobs.len(), 6);
    assert_eq!(report.completions.iter().map(|told| told.advantage).collect::<Vec<_>>(), advantages());
    assert!(first.masked.is_empty());
}

#[test]
fn a_context_without_a_beginning_is_refused() {
    for spans in [vec![drawn(&[3])], Vec::new(), vec![given(Source::Mode, &[]), drawn(&[3])]] {
        let mut group = two_contexts();
        group.completions[1].completion.contexts.push(Context { spans });
        let error = learner().step(&[group]).unwrap_err().to_string();
        assert!(error.ends_with("context 1 of completion 1 does not begin with given tokens"), "{error}");
    }
}

/// Tokens that were given are read, so they must be in the vocabulary too.
#[test]
fn a_given_token_outside_of_the_vocabulary_is_refused() {
    let mut group = two_contexts();
    group.completions[0].completion.contexts[1].spans[2] = given(Source::Environment, &[99]);
    let error = learner().step(&[group]).unwrap_err().to_string();
    assert!(error.ends_with("completion 0 has token 99, the vocabulary 24 entries"), "{error}");
}
