//! Plugins that fail in every way there is, written for `/bin/sh`, which the watchdog needs anyway.

use std::collections::BTreeMap;
#[cfg(target_os = "linux")]
use std::path::Path;
#[cfg(target_os = "linux")]
use std::process::{Command, Stdio};
#[cfg(target_os = "linux")]
use std::time::{Duration, Instant};

use serde_json::Map;

use super::{ProcessConfig, ProcessVerifier};
use crate::on_error::OnError;
use crate::{Answer, RewardError, Verdict, Verifier};

/// Reads a request, finds its id and its completion (a word), and says what the word asks for.
const PLUGIN: &str = r#"
    while read -r line; do
        id=${line#*'"id":'}; id=${id%%,*}
        word=${line#*'"completion":"'}; word=${word%%'"'*}
        case $word in
            hang) sleep 1000 ;;
            die) echo 'out of paper' >&2; exit 3 ;;
            nan) printf '{"id":%s,"reward":NaN}\n' "$id" ;;
            null) printf '{"id":%s,"reward":null}\n' "$id" ;;
            infinite) printf '{"id":%s,"reward":1e999}\n' "$id" ;;
            garbage) echo 'Segmentation fault' ;;
            bytes) printf '\377\376\n' ;;
            overlong) head -c 3000000 /dev/zero | tr '\0' x; echo ;;
            stranger) echo '{"id":999999,"reward":1}' ;;
            twice) printf '{"id":%s,"reward":0.5}\n{"id":%s,"reward":0.5}\n' "$id" "$id" ;;
            sorry) printf '{"id":%s,"error":"no unit"}\n' "$id" ;;
            loud) echo 'a line for the log' >&2; printf '{"id":%s,"reward":1}\n' "$id" ;;
            quit) printf '{"id":%s,"reward":1}\n' "$id"; exit 0 ;;
            *) printf '{"id":%s,"reward":%s,"parts":{"half":0.5}}\n' "$id" "$word" ;;
        esac
    done
"#;

fn config(script: &str) -> ProcessConfig {
    ProcessConfig {
        command: ["/bin/sh", "-c", script].map(str::to_string).to_vec(),
        workers: 1,
        batch: 1,
        timeout_ms: 10_000,
        startup_ms: 0,
        on_error: OnError::SkipGroup,
        environment: BTreeMap::new(),
    }
}

fn verifier(config: ProcessConfig) -> ProcessVerifier {
    ProcessVerifier::new("plugin", config).unwrap()
}

fn judge(verifier: &ProcessVerifier, words: &[&str]) -> Vec<Result<Verdict, RewardError>> {
    let (fields, references) = (Map::new(), ["r".to_string()]);
    let answer = |completion| Answer {
        prompt: "p",
        completion,
        references: &references,
        fields: &fields,
        tokens: 1,
        truncated: false,
    };
    verifier.verify_all(&words.iter().copied().map(answer).collect::<Vec<_>>())
}

/// The values of the answers, where a skipped group is NaN.
fn values(verifier: &ProcessVerifier, words: &[&str]) -> Vec<f64> {
    let value = |verdict: Result<Verdict, RewardError>| match verdict {
        Ok(verdict) => verdict.value,
        Err(error) if error.skips_group() => f64::NAN,
        Err(error) => panic!("{error}"),
    };
    judge(verifier, words).into_iter().map(value).collect()
}

fn count(verifier: &ProcessVerifier, names: [&str; 4]) -> [u64; 4] {
    let counters = verifier.counters();
    names.map(|name| counters[name])
}

#[test]
fn verdicts_come_back_in_order_with_their_parts() {
    for (workers, batch) in [(1, 1), (1, 7), (3, 1), (3, 4)] {
        let verifier = verifier(ProcessConfig { workers, batch, ..config(PLUGIN) });
        assert_eq!(verifier.counters()["requests"], 0);
        let words: Vec<String> = (0..50).map(|number| format!("{number}.25")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let verdicts = judge(&verifier, &words);
        for (verdict, word) in verdicts.iter().zip(&words) {
            let parts = BTreeMap::from([("half".to_string(), 0.5)]);
            assert_eq!(
                verdict.as_ref().unwrap(),
                &Verdict { value: word.parse().unwrap(), parts, ..Verdict::default() }
            );
        }
        assert_eq!(verifier.counters().values().sum::<u64>(), 50, "{:?}", verifier.counters());
    }
}

#[test]
fn out_of_order_replies_find_their_requests() {
    // It waits for four requests and answers the last one first; the id is the reward.
    let script = r#"
        id() { read -r line; id=${line#*'"id":'}; id=${id%%,*}; }
        id; a=$id; id; b=$id; id; c=$id; id
        for n in $id $c $b $a; do printf '{"id":%s,"reward":%s}\n' "$n" "$n"; done
        read -r line
    "#;
    let verifier = verifier(ProcessConfig { batch: 4, ..config(script) });
    assert_eq!(values(&verifier, &["a", "b", "c", "d"]), [0.0, 1.0, 2.0, 3.0]);
}

#[test]
fn every_fault_is_tried_twice_and_counted() {
    let faults = [
        ("die", "deaths"),
        ("nan", "bad_replies"),
        ("null", "bad_replies"),
        ("infinite", "bad_replies"),
        ("garbage", "bad_replies"),
        ("bytes", "bad_replies"),
        ("overlong", "bad_replies"),
        ("stranger", "bad_replies"),
        ("hang", "timeouts"),
    ];
    for (word, counter) in faults {
        let timeout_ms = if word == "hang" { 500 } else { 10_000 };
        let verifier = verifier(ProcessConfig { timeout_ms, startup_ms: 1000, ..config(PLUGIN) });
        let values = values(&verifier, &["1", word, "0.5"]);
        assert_eq!((values[0], values[2]), (1.0, 0.5), "{word}");
        assert!(values[1].is_nan(), "{word}");
        let counts = count(&verifier, [counter, "restarts", "retries", "failures"]);
        assert_eq!(counts, [2, 2, 1, 1], "{word}: {:?}", verifier.counters());
        assert_eq!(verifier.counters()["requests"], 3);
    }
}

#[test]
fn a_plugin_may_say_that_it_cannot_judge() {
    let verifier = verifier(config(PLUGIN));
    let mut verdicts = judge(&verifier, &["sorry", "1"]);
    assert_eq!(verdicts.pop().unwrap().unwrap().value, 1.0);
    let error = verdicts.pop().unwrap().unwrap_err();
    assert!(error.skips_group() && error.to_string().contains("no unit"), "{error}");
    // It stays alive: it is the answer that cannot be judged.
    assert_eq!(count(&verifier, ["errors", "restarts", "retries", "failures"]), [2, 0, 1, 1]);
}

#[test]
fn a_second_reply_costs_no_verdict() {
    for batch in [1, 5] {
        let verifier = verifier(ProcessConfig { batch, ..config(PLUGIN) });
        let words = ["1", "twice", "0.25", "twice", "1", "0", "twice", "0.75"];
        assert_eq!(values(&verifier, &words), [1.0, 0.5, 0.25, 0.5, 1.0, 0.0, 0.5, 0.75]);
        let [replies, failures, ..] = count(&verifier, ["bad_replies", "failures", "errors", "errors"]);
        // Whether the last one is noticed before the run ends is a matter of time.
        assert!((2..=3).contains(&replies) && failures == 0, "{:?}", verifier.counters());
    }
}

#[test]
fn a_plugin_that_ends_after_each_answer_is_started_again() {
    let verifier = verifier(config(PLUGIN));
    assert_eq!(values(&verifier, &["quit", "quit", "quit"]), [1.0, 1.0, 1.0]);
    let [failures, ..] = count(&verifier, ["failures", "errors", "errors", "errors"]);
    assert_eq!((failures, verifier.counters()["restarts"]), (0, 2));
}

#[test]
fn what_a_failure_means_is_the_configs_choice() {
    let with = |on_error| verifier(ProcessConfig { on_error, ..config(PLUGIN) });
    let zero = judge(&with(OnError::Zero), &["die"]).remove(0).unwrap();
    assert_eq!((zero.value, zero.parts.len()), (0.0, 0));
    assert!(zero.failure.as_deref().is_some_and(|reason| reason.contains("exit status: 3")), "{zero:?}");
    let stop = judge(&with(OnError::Stop), &["die"]).remove(0).unwrap_err();
    assert!(!stop.skips_group() && stop.to_string().contains("exit status: 3"), "{stop}");
    assert!(stop.to_string().ends_with("the last line of its standard error: out of paper"), "{stop}");
    // A program that cannot be started is a mistake in the config, whatever the choice.
    let mut absent = config(PLUGIN);
    absent.command = vec!["/nowhere/reward".to_string()];
    let error = judge(&verifier(absent), &["1"]).remove(0).unwrap_err();
    assert!(!error.skips_group() && error.to_string().contains("/nowhere/reward"), "{error}");
}

#[test]
fn a_config_is_checked_and_nothing_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("started");
    let idle = verifier(config(&format!("touch {}", trace.display())));
    drop(idle);
    assert!(!trace.exists());
    let refused = |change: fn(&mut ProcessConfig), key: &str| {
        let mut config = config(PLUGIN);
        change(&mut config);
        let error = ProcessVerifier::new("plugin", config).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{key}: ")), "{error}");
    };
    refused(|config| config.command.clear(), "command");
    refused(|config| config.command[0].clear(), "command");
    refused(|config| config.command[1].push('\0'), "command");
    refused(|config| config.workers = 0, "workers");
    refused(|config| config.batch = 1025, "batch");
    refused(|config| config.timeout_ms = 0, "timeout_ms");
    refused(|config| config.startup_ms = u64::MAX, "startup_ms");
    refused(|config| drop(config.environment.insert("A=B".to_string(), String::new())), "environment");
}

#[test]
fn the_environment_reaches_the_plugin_and_long_texts_come_whole() {
    // It answers with the length of the line, which is longer than any pipe.
    let script = r#"
        while read -r line; do
            id=${line#*'"id":'}; printf '{"id":%s,"reward":%s}\n' "${id%%,*}" "$((${#line} * FACTOR))"
        done
    "#;
    let environment = BTreeMap::from([("FACTOR".to_string(), "2".to_string())]);
    let verifier = verifier(ProcessConfig { environment, ..config(script) });
    let empty = values(&verifier, &[""])[0];
    assert_eq!(values(&verifier, &[&"x".repeat(300_000)])[0], empty + 600_000.0);
}

#[test]
fn a_plugin_that_does_not_read_hangs_no_caller() {
    let verifier = verifier(ProcessConfig { timeout_ms: 200, ..config("sleep 1000") });
    assert!(values(&verifier, &[&"x".repeat(1_000_000)])[0].is_nan());
    assert_eq!(count(&verifier, ["timeouts", "failures", "retries", "deaths"]), [2, 1, 1, 0]);
}

/// Keeps what is logged about plugins.
struct Log(std::sync::mpsc::Sender<String>);

impl tracing::Subscriber for Log {
    fn enabled(&self, about: &tracing::Metadata<'_>) -> bool {
        about.target() == "rewards::process"
    }

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!("{}={value:?} ", field.name()));
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        let _ = self.0.send(line.0);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn what_a_plugin_says_on_its_standard_error_is_logged() {
    let (lines_in, lines) = std::sync::mpsc::channel();
    // The lines come from a thread of the verifier's, so the log is the whole process's.
    tracing::subscriber::set_global_default(Log(lines_in)).unwrap();
    let verifier = ProcessVerifier::new("loud", config(PLUGIN)).unwrap();
    assert_eq!(values(&verifier, &["loud"]), [1.0]);
    let line = lines.iter().find(|line| line.contains("reward=\"loud\"")).unwrap();
    assert!(line.contains("a line for the log"), "{line}");
}

#[test]
fn a_storm_of_faults_costs_the_guilty_only() {
    for (workers, batch) in [(4, 1), (4, 8)] {
        storm(workers, batch);
    }
}

/// A thousand answers, four percent of which make the plugin fail each time, asked for by four threads at once.
fn storm(workers: usize, batch: usize) {
    let words: Vec<String> = (0..1000)
        .map(|place| match place % 100 {
            13 => "hang".to_string(),
            37 => "die".to_string(),
            38 => "nan".to_string(),
            71 => "garbage".to_string(),
            _ => format!("{}", place as f64 / 8.0),
        })
        .collect();
    let times = ProcessConfig { timeout_ms: 250, startup_ms: 250, ..config(PLUGIN) };
    let verifier = verifier(ProcessConfig { workers, batch, ..times });
    std::thread::scope(|scope| {
        for words in words.chunks(250) {
            scope.spawn(|| {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                for (value, word) in values(&verifier, &words).into_iter().zip(&words) {
                    match word.parse::<f64>().ok().filter(|truth| truth.is_finite()) {
                        Some(truth) => assert_eq!(value, truth),
                        None => assert!(value.is_nan(), "{word} got {value}"),
                    }
                }
            });
        }
    });
    let [requests, failures, timeouts, deaths] =
        count(&verifier, ["requests", "failures", "timeouts", "deaths"]);
    let [bad_replies, restarts, retries, errors] =
        count(&verifier, ["bad_replies", "restarts", "retries", "errors"]);
    assert_eq!((requests, failures, errors), (1000, 40, 0));
    // Every fault ends a worker, and another is started only if something is left to judge.
    let faults = timeouts + deaths + bad_replies;
    assert!(faults - (workers as u64) < restarts + 1 && restarts <= faults);
    if batch == 1 {
        // Each fault is one request's, which is tried again or given up. More than two for each guilty one are
        // there only if the machine was too busy for the time limit.
        assert_eq!(faults, retries + failures);
        assert!(timeouts >= 20 && deaths <= 20 && bad_replies <= 40, "{:?}", verifier.counters());
        assert!(faults >= 80, "{faults}");
    } else {
        // A guilty one fails two or three times, or once if it was in flight when another made the worker fail.
        assert!(timeouts >= 10 && (10..=30).contains(&deaths), "{:?}", verifier.counters());
        assert!((20..=60).contains(&bad_replies), "{:?}", verifier.counters());
        assert!(
            retries >= failures && retries + failures <= batch as u64 * faults,
            "{:?}",
            verifier.counters()
        );
    }
}

#[cfg(target_os = "linux")]
/// Starts a child of its own, says who it is in `$PIDS`, judges one answer if it is asked to, and then neither reads
/// nor ends.
const STUBBORN: &str = r#"
    trap '' HUP INT TERM
    sleep 1000 &
    echo "$$" > "$PIDS.new"; mv "$PIDS.new" "$PIDS"
    read -r line
    [ "$REPLIES" = 1 ] && echo '{"id":0,"reward":1}'
    while :; do sleep 1000; done
"#;

#[cfg(target_os = "linux")]
mod nothing_is_left {
    use super::*;

    fn stubborn(pids: &Path, replies: &str) -> ProcessVerifier {
        let pids = ("PIDS".to_string(), pids.display().to_string());
        let environment = BTreeMap::from([pids, ("REPLIES".to_string(), replies.to_string())]);
        verifier(ProcessConfig { environment, timeout_ms: 60_000, ..config(STUBBORN) })
    }

    /// State and process group, or nothing if there is no such process.
    fn state_and_group(pid: u32) -> Option<(String, u32)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before the last parenthesis may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?.to_string();
        Some((state, fields.nth(1)?.parse().ok()?))
    }

    /// The living processes of a group. A dead process that is not yet reaped is left to the process that adopted it.
    fn group(leader: u32) -> Vec<u32> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_of_it = |&pid: &u32| {
            state_and_group(pid).is_some_and(|(state, group)| group == leader && state != "Z" && state != "X")
        };
        pids.filter(is_of_it).collect()
    }

    fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < until, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn worker_of(pids: &Path) -> u32 {
        wait_for("the plugin starts", || pids.exists());
        std::fs::read_to_string(pids).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn when_the_verifier_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        let verifier = stubborn(&pids, "1");
        assert_eq!(values(&verifier, &["1"]), [1.0]);
        let (_, leader) = state_and_group(worker_of(&pids)).unwrap();
        // The watchdog, the plugin, and two that the plugin started; a Ctrl-C for our group is not for theirs.
        wait_for("the plugin is complete", || group(leader).len() == 4);
        assert_ne!(state_and_group(std::process::id()).unwrap().1, leader);
        drop(verifier);
        wait_for("all are gone", || group(leader).is_empty());
        // Our own children are reaped, too.
        assert_eq!(state_and_group(leader), None);
    }

    /// In the process that the test below starts, this is the run that is killed in the middle of a request.
    const PARENT: &str = "LONGHAUL_TEST_PARENT_OF_A_PLUGIN";

    #[test]
    fn when_the_run_is_killed() {
        if let Some(pids) = std::env::var_os(PARENT) {
            judge(&stubborn(Path::new(&pids), "0"), &["1"]);
            unreachable!("the plugin never answers");
        }
        // Not INT, which a shell lets its background jobs ignore.
        for signal in [rustix::process::Signal::KILL, rustix::process::Signal::TERM] {
            let folder = tempfile::tempdir().unwrap();
            let pids = folder.path().join("pids");
            let name = "process::tests::nothing_is_left::when_the_run_is_killed";
            let mut run = Command::new(std::env::current_exe().unwrap())
                .args([name, "--exact"])
                .env(PARENT, &pids)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let (_, leader) = state_and_group(worker_of(&pids)).unwrap();
            wait_for("the plugin is complete", || group(leader).len() == 4);
            rustix::process::kill_process(rustix::process::Pid::from_child(&run), signal).unwrap();
            let end = std::os::unix::process::ExitStatusExt::signal(&run.wait().unwrap());
            assert_eq!(end, Some(signal.as_raw()));
            wait_for("all are gone", || group(leader).is_empty());
        }
    }
}
