//! A generative verifier (UloRL, arXiv 2507.19766, section 3.3): a language model behind an OpenAI-compatible service
//! is asked whether the answer is right, and the last verdict in its reply counts.
//!
//! The judged text is hostile: it may claim to be the verdict, or tell the judge what to say. It is fenced by a word
//! that it cannot know, and only what the judge writes is read. What a judge can still be talked into is the
//! judge's weakness, which no parsing repairs. What the judge thinks on its way is not its verdict, and a reply that
//! was cut off has none.

mod prompt;
mod request;
mod reply;
mod choices;
mod client;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use crossbeam::channel::{Receiver, Sender, bounded};
use regex::{Regex, RegexBuilder};

use crate::on_error::OnError;
use crate::process::in_range;
use crate::thoughts::outside_thoughts;
use crate::{Answer, RewardError, Verdict, Verifier};
use choices::Choices;
use client::{Client, Failure, Key};
use prompt::Template;
use reply::Reply;
pub use request::{JudgeTemperature, Omitted, RequestValue};

/// Requests at the same time. Each is a thread that waits.
const CONCURRENCY: RangeInclusive<usize> = 1..=512;
/// Further tries of a request.
const RETRIES: RangeInclusive<u32> = 0..=20;
/// Milliseconds of a time limit, up to a day.
const MILLISECONDS: RangeInclusive<u64> = 1..=86_400_000;
/// Tokens that a judge may write.
const TOKENS: RangeInclusive<u32> = 1..=1_000_000;
/// Characters of a completion that are judged.
const CHARACTERS: RangeInclusive<usize> = 1..=10_000_000;
/// Bytes of a compiled pattern, so that a config cannot ask for more memory than it has text.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Who judges, what it is asked, and how long it may take.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeConfig {
    /// The service: its whole address (`.../chat/completions`), or its start, with or without `/v1`.
    pub url: String,
    /// The judge's name there.
    pub model: String,
    /// What the judge is asked. `{prompt}`, `{completion}` and `{answer}` stand for the texts, `{fence}` for a word
    /// that none of them can know; everything else stands for itself.
    #[serde(default = "prompt::standard")]
    pub prompt: String,
    /// A regular expression whose first group is the verdict: `yes`, `no` or a number. Its last match counts; one that
    /// only names the choice (`yes or no`, `yes/no`, `yes?`) is none.
    #[serde(default = "last_verdict")]
    pub answer_pattern: String,
    /// Characters at the end of the completion that the judge sees: that is where the answer stands.
    #[serde(default = "sixteen_thousand")]
    pub completion_characters_max: usize,
    /// Requests at the same time, over all threads of the run.
    #[serde(default = "eight")]
    pub concurrency: usize,
    /// Further tries after a failure that may pass: 429, 5xx, a lost connection, a broken body.
    #[serde(default = "four")]
    pub retries: u32,
    /// Milliseconds for one answer with all its tries and the waits between them.
    #[serde(default = "two_minutes")]
    pub timeout_ms: u64,
    /// Tokens that the judge may write, its thoughts among them; 1000 where this key and the next are absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The same under the name that newer services ask for. Only one of the two is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<u32>,
    /// Temperature of the judge. At 0 the same answer gets the same verdict as far as the service allows.
    /// Default: `0.0`.
    #[serde(default)]
    pub temperature: JudgeTemperature,
    /// Name of the environment variable with the key. The key itself stands in no config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// What an answer is worth that the judge gave no verdict for.
    #[serde(default)]
    pub on_error: OnError,
    /// Further fields of the request, as the service knows them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub request: BTreeMap<String, RequestValue>,
}

/// `no` alone is too common a word to be a verdict, except where the reply begins with it.
fn last_verdict() -> String {
    r"(?i)(?:\bverdict\W{0,9}|^\W*)(yes|no)\b".to_string()
}

fn sixteen_thousand() -> usize {
    16_000
}

fn eight() -> usize {
    8
}

fn four() -> u32 {
    4
}

fn two_minutes() -> u64 {
    120_000
}

impl JudgeConfig {
    fn check(&self) -> Result<(), RewardError> {
        if self.model.is_empty() {
            return Err(RewardError::config("model", "must name the judge"));
        }
        in_range("completion_characters_max", self.completion_characters_max, &CHARACTERS)?;
        in_range("concurrency", self.concurrency, &CONCURRENCY)?;
        in_range("retries", self.retries, &RETRIES)?;
        in_range("timeout_ms", self.timeout_ms, &MILLISECONDS)?;
        let (key, tokens) = self.limit()?;
        in_range(key, tokens, &TOKENS)?;
        if let JudgeTemperature::Number(temperature) = self.temperature {
            in_range("temperature", temperature, &(0.0..=2.0))?;
        }
        self.check_request()
    }

    fn pattern(&self) -> Result<Regex, RewardError> {
        let pattern = RegexBuilder::new(&self.answer_pattern).size_limit(PATTERN_BYTES_MAX).build();
        let pattern = pattern.map_err(|error| RewardError::config("answer_pattern", error.to_string()))?;
        if pattern.captures_len() < 2 {
            return Err(RewardError::config(
                "answer_pattern",
                "needs a group for the verdict, as `(yes|no)`",
            ));
        }
        Ok(pattern)
    }

    /// The key, if one is asked for.
    fn key(&self) -> Result<Option<Key>, RewardError> {
        let Some(name) = &self.api_key_env else { return Ok(None) };
        let refused = |reason: &str| RewardError::config("api_key_env", format!("`{name}` {reason}"));
        // A name with these cannot be set, and asking for it would panic.
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(refused("is no name of an environment variable"));
        }
        let key = std::env::var(name).map_err(|_| refused("is not set in the environment"))?;
        Key::new(key.trim()).map(Some).ok_or_else(|| refused("holds no key: it must be printable ASCII"))
    }
}

/// What happened since the verifier was made.
#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    retries: AtomicU64,
    timeouts: AtomicU64,
    cut_off: AtomicU64,
    failures: AtomicU64,
}

/// Asks a judge. The first request is made with the first answer.
#[derive(Debug)]
pub struct JudgeVerifier {
    template: Template,
    pattern: Regex,
    choices: Choices,
    client: Client,
    on_error: OnError,
    concurrency: usize,
    /// Holds one token for each request under way: a request that finds it full waits.
    under_way: (Sender<()>, Receiver<()>),
    counters: Counters,
}

impl JudgeVerifier {
    /// A judge that is not asked yet. The key is read from the environment here, so that a run that lacks it ends
    /// before it has written anything.
    ///
    /// # Errors
    /// Names the key of the config that cannot work.
    pub fn new(config: JudgeConfig) -> Result<Self, RewardError> {
        config.check()?;
        Ok(JudgeVerifier {
            template: Template::new(&config.prompt, config.completion_characters_max)?,
            pattern: config.pattern()?,
            choices: Choices::new(),
            client: Client::new(&config, config.key()?)?,
            on_error: config.on_error,
            concurrency: config.concurrency,
            under_way: bounded(config.concurrency),
            counters: Counters::default(),
        })
    }

    /// The verdict in a reply, or why there is none.
    fn value(&self, reply: Reply) -> Result<f64, String> {
        let words = match reply {
            Reply::Whole(words) => words,
            Reply::Silent(reason) => return Err(reason),
            Reply::CutOff(reason) => {
                self.counters.cut_off.fetch_add(1, Ordering::Relaxed);
                return Err(reason);
            }
        };
        let shown = self.client.shown(&words);
        let Some(said) = outside_thoughts(&words) else {
            return Err(format!("the judge's reply ends inside a thought, so it gives no verdict: {shown}"));
        };
        self.last_verdict(said).ok_or_else(|| format!("the judge's reply has no verdict: {shown}"))
    }

    /// The value of the last verdict in what the judge says.
    fn last_verdict(&self, said: &str) -> Option<f64> {
        let given = self.pattern.captures_iter(said).filter_map(|found| found.get(1));
        let verdicts = given.filter_map(|found| match self.choices.of(found.as_str()) {
            true => self.choices.chosen(said, found.range()),
            false => Some(found.as_str()),
        });
        match verdicts.last()?.trim() {
            yes if yes.eq_ignore_ascii_case("yes") => Some(1.0),
            no if no.eq_ignore_ascii_case("no") => Some(0.0),
            number => number.parse().ok().filter(|value: &f64| value.is_finite()),
        }
    }
}

impl Verifier for JudgeVerifier {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        let question = self.template.fill(answer)?;
        self.under_way.0.send(()).expect("both ends are ours");
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let reply = self.client.ask(&question, &self.counters);
        self.under_way.1.recv().expect("both ends are ours");
        let reason = match reply {
            Ok(reply) => match self.value(reply) {
                Ok(value) => return Ok(Verdict::from(value)),
                Err(reason) => self.client.shown(&reason),
            },
            Err(Failure::Refused(reason)) => {
                self.counters.failures.fetch_add(1, Ordering::Relaxed);
                return Err(RewardError::Custom(reason));
            }
            Err(Failure::Unjudged(reason)) => reason,
        };
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(target: "rewards::judge", "{reason}");
        self.on_error.instead(reason)
    }

    fn check(&self, question: &Answer<'_>) -> Result<(), RewardError> {
        self.template.fill(question).map(drop)
    }

    fn verify_all(&self, answers: &[Answer<'_>]) -> Vec<Result<Verdict, RewardError>> {
        let next = AtomicUsize::new(0);
        let (verdicts_in, verdicts_out) = bounded(answers.len());
        let work = || {
            while let Some((place, answer)) = {
                let place = next.fetch_add(1, Ordering::Relaxed);
                answers.get(place).map(|answer| (place, answer))
            } {
                verdicts_in.send((place, self.verify(answer))).expect("there is room for every verdict");
            }
        };
        thread::scope(|scope| {
            // This thread is one of them, so the work is done even where no other can be had.
            for _ in 1..self.concurrency.min(answers.len()) {
                if thread::Builder::new().name("judge".to_string()).spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        let mut verdicts: Vec<_> = verdicts_out.try_iter().collect();
        verdicts.sort_by_key(|(place, _)| *place);
        verdicts.into_iter().map(|(_, verdict)| verdict).collect()
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let counters = &self.counters;
        let read = |name: &str, counter: &AtomicU64| (name.to_string(), counter.load(Ordering::Relaxed));
        BTreeMap::from([
            read("requests", &counters.requests),
            read("retries", &counters.retries),
            read("timeouts", &counters.timeouts),
            read("cut_off", &counters.cut_off),
            read("failures", &counters.failures),
        ])
    }
}
