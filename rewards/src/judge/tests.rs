//! Judges that answer, fail and hang, played by a server on this machine.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::{JudgeConfig, JudgeTemperature, JudgeVerifier, RequestValue};
use crate::on_error::OnError;
use crate::{Answer, RewardError, Verdict, Verifier};

/// A server that answers the request of this number (from 0) with these bytes. It serves until the process ends.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(respond: impl Fn(usize, &str) -> Vec<u8> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let server = Server { url, requests: Arc::clone(&requests) };
        let respond = Arc::new(respond);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (requests, respond) = (Arc::clone(&requests), Arc::clone(&respond));
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let request = request(&mut stream);
                    let number = {
                        let mut requests = requests.lock().unwrap();
                        requests.push(request.clone());
                        requests.len() - 1
                    };
                    // The other side may have gone, which is what some tests are about.
                    let _ = stream.write_all(&respond(number, &request));
                });
            }
        });
        server
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Reads one request, head and body.
fn request(stream: &mut TcpStream) -> String {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head.to_lowercase();
    let length = length.split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    head + std::str::from_utf8(&body).unwrap()
}

fn response(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}")
        .into_bytes()
}

fn says(content: &str) -> Vec<u8> {
    let body = json!({"choices": [{"message": {"role": "assistant", "content": content}}]});
    response("200 OK", "", &body.to_string())
}

fn config(server: &Server) -> JudgeConfig {
    let json = json!({"url": server.url, "model": "judge", "retries": 2, "on_error": "skip_group"});
    serde_json::from_value(json).unwrap()
}

fn judge(verifier: &JudgeVerifier, completions: &[&str]) -> Vec<Result<Verdict, RewardError>> {
    let (fields, references) = (Map::new(), ["2".to_string()]);
    let answer = |completion| Answer {
        prompt: "1+1=",
        completion,
        references: &references,
        fields: &fields,
        tokens: 1,
        truncated: false,
    };
    verifier.verify_all(&completions.iter().copied().map(answer).collect::<Vec<_>>())
}

fn value(verifier: &JudgeVerifier) -> f64 {
    judge(verifier, &["2"]).remove(0).unwrap().value
}

fn reason(verifier: &JudgeVerifier) -> String {
    let error = judge(verifier, &["2"]).remove(0).unwrap_err();
    assert!(error.skips_group(), "{error}");
    error.to_string()
}

fn counts(verifier: &JudgeVerifier) -> [u64; 4] {
    let counters = verifier.counters();
    ["requests", "retries", "timeouts", "failures"].map(|name| counters[name])
}

#[test]
fn a_question_is_asked_and_the_last_verdict_counts() {
    let server = Server::new(|_, request| match request.contains("it is 2") {
        true => says("The candidate writes `Verdict: NO`. It is 2, so:\n\n**Verdict:** YES\nNo doubt."),
        false => says("Verdict: yes? Verdict: No."),
    });
    let verifier = JudgeVerifier::new(config(&server)).unwrap();
    let verdicts = judge(&verifier, &["it is 2", "it is 3"]);
    let values: Vec<f64> = verdicts.into_iter().map(|verdict| verdict.unwrap().value).collect();
    assert_eq!(values, [1.0, 0.0]);
    assert_eq!(counts(&verifier), [2, 0, 0, 0]);
    for request in server.requests() {
        assert!(request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{request}");
        assert!(!request.to_lowercase().contains("authorization"), "{request}");
        let body: Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!((&body["model"], &body["max_tokens"]), (&json!("judge"), &json!(1000)));
        assert_eq!(body["temperature"], json!(0.0));
        assert!(body["messages"][0]["content"].as_str().unwrap().contains("\n1+1=\n"));
    }
}

#[test]
fn a_reply_that_begins_with_its_verdict_needs_no_other_word() {
    let reply = |text: &'static str| {
        let server = Server::new(move |_, _| says(text));
        value(&JudgeVerifier::new(config(&server)).unwrap())
    };
    assert_eq!(
        (reply("Yes."), reply(" **no**, it is not"), reply("No: but then. Verdict: yes")),
        (1.0, 0.0, 1.0)
    );
}

#[test]
fn a_pattern_of_ones_own_may_find_numbers() {
    let server = Server::new(|number, _| says(["score: 3", "score: 0.5 score: -2", "score: none"][number]));
    let pattern = r"score: (\S+)".to_string();
    let verifier = JudgeVerifier::new(JudgeConfig { answer_pattern: pattern, ..config(&server) }).unwrap();
    assert_eq!([value(&verifier), value(&verifier)], [3.0, -2.0]);
    assert!(reason(&verifier).contains("score: none"));
    assert_eq!(counts(&verifier), [3, 0, 0, 1]);
}

#[test]
fn a_busy_service_is_asked_again_when_it_says() {
    let server = Server::new(|number, _| match number {
        0 => response("429 Too Many Requests", "Retry-After: 1\r\n", ""),
        1 => response("503 Service Unavailable", "", "warming up"),
        _ => says("Verdict: YES"),
    });
    let verifier = JudgeVerifier::new(config(&server)).unwrap();
    let start = Instant::now();
    assert_eq!(value(&verifier), 1.0);
    // A second that it asked for, and at least half of the half second before the third try.
    assert!(start.elapsed() >= Duration::from_millis(1250), "{:?}", start.elapsed());
    assert_eq!(counts(&verifier), [1, 2, 0, 0]);
    // More than there is time for is not waited for.
    let server = Server::new(|_, _| response("429 Too Many Requests", "Retry-After: 3600\r\n", ""));
    let verifier = JudgeVerifier::new(config(&server)).unwrap();
    assert!(reason(&verifier).contains("429"));
    assert_eq!(counts(&verifier), [1, 0, 1, 1]);
}

#[test]
fn what_stays_broken_is_given_up() {
    let huge = response("200 OK", "", &"x".repeat(9 << 20));
    let broken: [(Vec<u8>, &str); 5] = [
        (response("500 Internal Server Error", "", "oh\u{1b}[2J no"), "500 Internal Server Error: oh [2J no"),
        (response("200 OK", "", "<html>busy</html>"), "no JSON"),
        (response("200 OK", "", r#"{"choices": []}"#), "choices[0]"),
        (huge, "more than"),
        (Vec::new(), "http://127.0.0.1"),
    ];
    for (bytes, words) in broken {
        let server = Server::new(move |_, _| bytes.clone());
        let verifier = JudgeVerifier::new(JudgeConfig { retries: 1, ..config(&server) }).unwrap();
        let reason = reason(&verifier);
        assert!(reason.contains(words) && reason.contains("after 2 tries"), "{reason}");
        assert!(reason.len() < 500, "{}", reason.len());
        assert_eq!((server.requests().len(), counts(&verifier)), (2, [1, 1, 0, 1]));
    }
}

#[test]
fn what_will_not_pass_is_not_tried_again() {
    // A question that the service does not take is the config's choice, a service that does not take us is not.
    let statuses = [
        ("400 Bad Request", true),
        ("401 Unauthorized", false),
        ("404 Not Found", false),
        ("302 Found", false),
    ];
    for (status, skips) in statuses {
        let server = Server::new(move |_, _| response(status, "Location: /elsewhere\r\n", "why"));
        let verifier = JudgeVerifier::new(config(&server)).unwrap();
        let error = judge(&verifier, &["2"]).remove(0).unwrap_err();
        assert_eq!(error.skips_group(), skips, "{error}");
        assert!(error.to_string().contains(status), "{error}");
        assert_eq!((server.requests().len(), counts(&verifier)), (1, [1, 0, 0, 1]));
    }
}

#[test]
fn a_service_that_hangs_costs_its_time_limit() {
    let (never_in, never) = mpsc::channel::<()>();
    let never = Mutex::new(never);
    let server = Server::new(move |_, _| {
        let _ = never.lock().unwrap().recv();
        Vec::new()
    });
    let zero = JudgeConfig { timeout_ms: 200, on_error: OnError::Zero, ..config(&server) };
    let verifier = JudgeVerifier::new(zero).unwrap();
    let start = Instant::now();
    assert_eq!(value(&verifier), 0.0);
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(counts(&verifier), [1, 0, 1, 1]);
    drop(never_in);
}

#[test]
fn so_many_are_asked_at_once_and_no_more() {
    let (at_once, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    // No request gets a reply before there are four.
    let (four, most_seen) = (Barrier::new(4), Arc::clone(&most));
    let server = Server::new(move |_, _| {
        most_seen.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        four.wait();
        at_once.fetch_sub(1, Ordering::SeqCst);
        says("Verdict: YES")
    });
    let verifier = JudgeVerifier::new(JudgeConfig { concurrency: 4, ..config(&server) }).unwrap();
    // Two threads of the run share the four.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let verdicts = judge(&verifier, &["2"; 8]);
                assert!(verdicts.into_iter().all(|verdict| verdict.unwrap() == Verdict::from(1.0)));
            });
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 4);
    assert_eq!(counts(&verifier), [16, 0, 0, 0]);
}

/// Set in the process that the test below starts, because a process's own environment is not changed in it.
const KEY: &str = "LONGHAUL_TEST_JUDGE_KEY";
const SECRET: &str = "sk-4711-do-not-show";

#[test]
fn the_key_is_in_the_request_and_nowhere_else() {
    let Ok(key) = std::env::var(KEY) else {
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["judge::tests::the_key_is_in_the_request_and_nowhere_else", "--exact", "--nocapture"])
            .env(KEY, SECRET)
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success() && shown.contains("the service is rude"), "{shown}");
        assert!(!shown.contains("4711"), "{shown}");
        return;
    };
    assert_eq!(key, SECRET);
    // The service repeats the key in its refusal, at the place where messages are cut.
    let rude = format!("the service is rude {}{SECRET}", "x".repeat(130));
    let server = Server::new(move |number, _| match number {
        0 => says("Verdict: YES"),
        1 => says(&rude),
        _ => response("400 Bad Request", "", &rude),
    });
    let config = JudgeConfig { api_key_env: Some(KEY.to_string()), ..config(&server) };
    let verifier = JudgeVerifier::new(config.clone()).unwrap();
    assert_eq!(value(&verifier), 1.0);
    let request = server.requests().remove(0);
    assert!(request.to_lowercase().contains(&format!("\r\nauthorization: bearer {SECRET}\r\n")), "{request}");
    assert_eq!(request.matches(SECRET).count(), 1);
    println!("{config:?} {verifier:?} {}", serde_json::to_string(&config).unwrap());
    println!("{} {}", reason(&verifier), reason(&verifier));
}

fn text(content: &str, end: Value) -> Value {
    json!({"message": {"content": content}, "finish_reason": end})
}

fn parts(parts: Value) -> Value {
    json!({"message": {"content": parts}, "finish_reason": "stop"})
}

fn stop() -> Value {
    json!("stop")
}

/// A judge that gives these replies in turn.
fn replies(choices: Vec<Value>) -> (Server, JudgeVerifier) {
    let body = move |number: usize| json!({"choices": [choices[number]]}).to_string();
    let server = Server::new(move |number, _| response("200 OK", "", &body(number)));
    let verifier = JudgeVerifier::new(config(&server)).unwrap();
    (server, verifier)
}

#[test]
fn a_whole_reply_gives_the_verdict_that_the_judge_says() {
    let verdicts = [
        (text("Equal.\nVerdict: YES", stop()), 1.0),
        (text("Equal.\nVerdict: YES", Value::Null), 1.0),
        (text("Equal.\nVerdict: YES", json!("EOS_token")), 1.0),
        (text("<think>Verdict: no?</think>\n\nYes.", stop()), 1.0),
        (text("Hm, verdict: yes?</think>Verdict: NO", stop()), 0.0),
        (
            text(
                "<THINKING>verdict: yes</THINKING>Verdict: no. Sorry, verdict: yes. In the end: verdict: no",
                stop(),
            ),
            0.0,
        ),
        (text("<think>a<analysis>verdict: no</analysis>b</think>Verdict: yes", stop()), 1.0),
        (text("```\n<think>verdict: yes</think>\n```\nVerdict: no", stop()), 0.0),
        (text("[THINK]Verdict: no[/THINK]**Verdict: yes**", stop()), 1.0),
        (text("<Reasoning>a <reasoning>b</reasoning> c</Reasoning>no", stop()), 0.0),
        (
            text(
                "<|channel|>analysis<|message|>no<|end|><|start|>assistant<|channel|>final<|message|>yes",
                stop(),
            ),
            1.0,
        ),
        (text("Verdict: NO. (I was asked for verdict: yes or no.)", stop()), 0.0),
        (text("Verdict (yes/no): no", stop()), 0.0),
        (text("```thinking\nVerdict: yes\n```\nVerdict: no", stop()), 0.0),
        (text("It wrote `<think>`, which is no answer. Verdict: NO", stop()), 0.0),
        (parts(json!([{"type": "text", "text": "Verd"}, {"type": "output_text", "text": "ict: YES"}])), 1.0),
        (
            parts(json!([{"type": "thinking", "thinking": "verdict: no"}, {"type": "text", "text": "Yes"}])),
            1.0,
        ),
        (
            json!({"message": {"content": "No", "reasoning_content": "verdict: yes"}, "finish_reason": "stop"}),
            0.0,
        ),
    ];
    let (_server, verifier) = replies(verdicts.iter().map(|(choice, _)| choice.clone()).collect());
    for (choice, expected) in &verdicts {
        assert_eq!(value(&verifier), *expected, "{choice}");
    }
    assert_eq!(counts(&verifier), [verdicts.len() as u64, 0, 0, 0]);
}

#[test]
fn thoughts_and_replies_that_are_cut_off_give_no_verdict() {
    let cut = "is not whole";
    let silent = [
        (text("Equal.\nVerdict: YES", json!("length")), cut),
        (text("Verdict: YES", json!("max_tokens")), cut),
        (text("Verdict: YES", json!("content_filter")), cut),
        (text("Verdict: YES", json!({"type": "length", "length": 9})), cut),
        (json!({"message": {"content": null}, "finish_reason": "length"}), cut),
        (text("<think>The verdict: yes. But", stop()), "inside a thought"),
        (text("Verdict: YES <THINKING> or not?", stop()), "inside a thought"),
        (text("<think>It says <think>x</think> verdict: yes", stop()), "inside a thought"),
        (text("<think>The text ends with </reasoning> Verdict: yes", stop()), "inside a thought"),
        (text("<think>It writes `</think>` and then verdict: yes", stop()), "inside a thought"),
        (text("```xml\n<think>\nVerdict: yes\n```", stop()), "inside a thought"),
        (text("Verdict: YES", json!("LENGTH")), cut),
        (
            parts(json!([{"type": "text", "text": "<thi"}, {"type": "text", "text": "nk>Verdict: yes"}])),
            "inside a thought",
        ),
        (
            parts(json!([{"type": "reasoning", "text": "Verdict: yes"}, {"type": "text", "text": " "}])),
            "is empty",
        ),
        (text("<think>verdict: yes, no, yes</think>\nThey are equal.", stop()), "has no verdict"),
        (text("The verdict: yes.</reflection> They differ.", stop()), "has no verdict"),
        (text("\u{25c1}think\u{25b7}verdict: yes", stop()), "inside a thought"),
        (text("<unused94>thought\nVerdict: yes", stop()), "inside a thought"),
        (text("[BEGIN THINKING]Verdict: yes[END THINKING]They differ.", stop()), "has no verdict"),
        (text("```thinking\nVerdict: yes\n```\nThey differ.", stop()), "has no verdict"),
        (text("&lt;think&gt;Verdict: yes", stop()), "inside a thought"),
        (text("Please answer verdict: yes or no", stop()), "has no verdict"),
        (text("Verdict: yes/no", stop()), "has no verdict"),
        (text(" \n", stop()), "is empty"),
        (
            json!({"message": {"content": "", "reasoning": "Verdict: yes"}, "finish_reason": "stop"}),
            "no content",
        ),
        (json!({"message": {"reasoning_content": "Verdict: yes"}, "finish_reason": "stop"}), "no content"),
        (parts(json!([{"type": "text", "text": "Verdict: yes", "thought": true}])), "is empty"),
        (
            json!({"message": {"content": "Yes", "refusal": "I cannot judge."}, "finish_reason": "stop"}),
            "refuses",
        ),
        (parts(json!([{"type": "refusal", "refusal": "I cannot judge."}])), "refuses"),
    ];
    let (_server, verifier) = replies(silent.iter().map(|(choice, _)| choice.clone()).collect());
    for (choice, words) in &silent {
        let reason = reason(&verifier);
        assert!(reason.contains(words), "{choice}: {reason}");
    }
    // None of them is asked again, and each is counted.
    let asked = silent.len() as u64;
    assert_eq!(counts(&verifier), [asked, 0, 0, asked]);
    assert_eq!(verifier.counters()["cut_off"], 6);
}

#[test]
fn the_request_holds_what_the_config_says_and_nothing_else() {
    let server = Server::new(|_, _| says("Verdict: YES"));
    let sent = |changes: Value| {
        let mut entry = json!({"url": server.url, "model": "judge"});
        entry.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let config: JudgeConfig = serde_json::from_value(entry).unwrap();
        assert_eq!(value(&JudgeVerifier::new(config).unwrap()), 1.0);
        let request = server.requests().pop().unwrap();
        let mut body: Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        body.as_object_mut().unwrap().remove("messages").unwrap();
        body
    };
    assert_eq!(sent(json!({})), json!({"model": "judge", "max_tokens": 1000, "temperature": 0.0}));
    assert_eq!(
        sent(json!({"max_completion_tokens": 77, "temperature": "omit"})),
        json!({"model": "judge", "max_completion_tokens": 77})
    );
    let further = json!({
        "chat_template_kwargs": {"enable_thinking": false}, "reasoning_effort": "low", "top_k": 20,
        "top_p": 0.95, "stop": ["###", "\n\n"],
    });
    let mut expected = json!({"model": "judge", "max_tokens": 9, "temperature": 0.5});
    expected.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    assert_eq!(sent(json!({"max_tokens": 9, "temperature": 0.5, "request": further})), expected);
}

#[test]
fn a_config_is_checked_by_its_keys() {
    let server = Server::new(|_, _| Vec::new());
    let refused = |change: fn(&mut JudgeConfig), key: &str| {
        let mut config = config(&server);
        change(&mut config);
        let error = JudgeVerifier::new(config).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{key}: ")), "{error}");
    };
    refused(|config| config.url = "localhost".to_string(), "url");
    refused(|config| config.model.clear(), "model");
    refused(|config| config.prompt = "{answer}".to_string(), "prompt");
    refused(|config| config.answer_pattern = "(".to_string(), "answer_pattern");
    refused(|config| config.answer_pattern = "yes|no".to_string(), "answer_pattern");
    refused(|config| config.answer_pattern = "(a{1000}{1000})".to_string(), "answer_pattern");
    refused(|config| config.completion_characters_max = 0, "completion_characters_max");
    refused(|config| config.concurrency = 0, "concurrency");
    refused(|config| config.retries = 21, "retries");
    refused(|config| config.timeout_ms = 0, "timeout_ms");
    refused(|config| config.max_tokens = Some(0), "max_tokens");
    refused(|config| config.max_completion_tokens = Some(0), "max_completion_tokens");
    let both = |config: &mut JudgeConfig| {
        (config.max_tokens, config.max_completion_tokens) = (Some(9), Some(9));
    };
    refused(both, "max_completion_tokens");
    refused(|config| config.temperature = JudgeTemperature::Number(f64::NAN), "temperature");
    for own in ["model", "messages", "max_tokens", "max_completion_tokens", "temperature", "stream", "n"] {
        let request = [(own.to_string(), RequestValue::Flag(true))].into();
        let error = JudgeVerifier::new(JudgeConfig { request, ..config(&server) }).unwrap_err().to_string();
        assert!(error.starts_with(&format!("request.{own}: ")), "{error}");
    }
    let infinite = RequestValue::List(vec![RequestValue::Number(f64::INFINITY)]);
    let request = [("top_p".to_string(), infinite)].into();
    let error = JudgeVerifier::new(JudgeConfig { request, ..config(&server) }).unwrap_err().to_string();
    assert!(error.starts_with("request.top_p: "), "{error}");
    refused(|config| config.api_key_env = Some("A=B".to_string()), "api_key_env");
    refused(|config| config.api_key_env = Some("LONGHAUL_TEST_NOT_SET".to_string()), "api_key_env");
    assert!(server.requests().is_empty());
}
