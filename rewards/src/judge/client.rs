//! One question to a chat-completions service and its reply, with the tries in between.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use ureq::http::Uri;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};

use super::reply::Reply;
use super::request::Body;
use super::{Counters, JudgeConfig};
use crate::RewardError;
use trajectory::random::{key_of, key_of_text};

/// Bytes of a response: a judge's longest reply is a few megabytes.
const BODY_BYTES_MAX: u64 = 8 << 20;
/// Bytes of a response to a request that failed, of which a message shows the start.
const ERROR_BYTES_MAX: u64 = 1 << 16;
/// The wait before the first further try; it doubles with each.
const BACK_OFF: Duration = Duration::from_millis(250);
/// The longest such wait, unless the service asks for more.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// Enough of a service's words to know what they are about.
const CHARACTERS_SHOWN: usize = 200;

/// A key, which nothing but the request may show.
pub(super) struct Key(String);

impl Key {
    /// A key that can be sent in a header.
    pub(super) fn new(key: &str) -> Option<Key> {
        let is_printable = key.bytes().all(|byte| byte.is_ascii_graphic());
        (is_printable && !key.is_empty()).then(|| Key(key.to_string()))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Key(not shown)")
    }
}

/// Why there is no reply.
#[derive(Debug)]
pub(super) enum Failure {
    /// The service refuses every request (the key, the model's name, the address), so that the run must stop.
    Refused(String),
    /// This question got no reply.
    Unjudged(String),
}

/// Why a try failed, and what may be done about it.
enum Fault {
    /// It may pass. The service may have said when.
    Passing(String, Option<Duration>),
    TimedOut,
    Final(Failure),
}

/// Speaks with the service.
#[derive(Debug)]
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    key: Option<Key>,
    body: Body,
    retries: u32,
    timeout: Duration,
}

impl Client {
    pub(super) fn new(config: &JudgeConfig, key: Option<Key>) -> Result<Self, RewardError> {
        let url = endpoint(&config.url)?;
        let agent = ureq::Agent::config_builder()
            // A status is read here, with the service's words.
            .http_status_as_error(false)
            // A redirected request would lose its key. The error names the address, so that the config can be corrected.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections_per_host(config.concurrency)
            .max_idle_connections(config.concurrency);
        // A service on this machine is not behind a proxy, whatever the environment says.
        let agent = if is_on_this_machine(&url) { agent.proxy(None) } else { agent };
        Ok(Client {
            agent: agent.build().new_agent(),
            url,
            key,
            body: Body::new(config)?,
            retries: config.retries,
            timeout: Duration::from_millis(config.timeout_ms),
        })
    }

    /// The judge's reply.
    pub(super) fn ask(&self, question: &str, counters: &Counters) -> Result<Reply, Failure> {
        let (body, deadline) = (self.body.with(question), Instant::now() + self.timeout);
        let late = |last: &str| {
            counters.timeouts.fetch_add(1, Ordering::Relaxed);
            Failure::Unjudged(format!("no verdict in {} ms{last}", self.timeout.as_millis()))
        };
        let mut tries = 0;
        loop {
            let (reason, wait) = match self.attempt(&body, deadline) {
                Ok(reply) => return Ok(reply),
                Err(Fault::Final(failure)) => return Err(failure),
                Err(Fault::TimedOut) => return Err(late("")),
                Err(Fault::Passing(reason, _)) if tries == self.retries => {
                    return Err(Failure::Unjudged(format!("{reason} (after {} tries)", tries + 1)));
                }
                Err(Fault::Passing(reason, asked)) => {
                    let wait = back_off(tries, key_of_text(question)).max(asked.unwrap_or_default());
                    (reason, wait)
                }
            };
            if wait >= deadline.saturating_duration_since(Instant::now()) {
                return Err(late(&format!(", the last try said: {reason}")));
            }
            tracing::debug!(target: "rewards::judge", wait_ms = wait.as_millis(), "asking again: {reason}");
            thread::sleep(wait);
            tries += 1;
            counters.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn attempt(&self, body: &str, deadline: Instant) -> Result<Reply, Fault> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Fault::TimedOut);
        }
        let mut request = self.agent.post(&self.url).header(CONTENT_TYPE, "application/json");
        if let Some(Key(key)) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.config().timeout_global(Some(left)).build();
        let mut response = request.send(body).map_err(|error| self.fault(&error))?;
        let status = response.status();
        let asked = response.headers().get(RETRY_AFTER).and_then(|value| seconds(value.to_str().ok()?));
        let bytes_max = if status.is_success() { BODY_BYTES_MAX } else { ERROR_BYTES_MAX };
        let read = response.body_mut().with_config().limit(bytes_max).read_to_vec();
        if status.is_success() {
            let read = read.map_err(|error| self.fault(&error))?;
            return Reply::read(&read).map_err(|reason| Fault::Passing(self.shown(&reason), None));
        }
        // The status says enough where its explanation cannot be read.
        let words = read.unwrap_or_default();
        let reason =
            self.shown(&format!("the judge's service says {status}: {}", String::from_utf8_lossy(&words)));
        Err(match status.as_u16() {
            408 | 425 | 429 | 500..=599 => Fault::Passing(reason, asked),
            300..=399 | 401 | 403 | 404 | 405 => Fault::Final(Failure::Refused(reason)),
            _ => Fault::Final(Failure::Unjudged(reason)),
        })
    }

    fn fault(&self, error: &ureq::Error) -> Fault {
        let reason = self.shown(&format!("{}: {error}", self.url));
        match error {
            ureq::Error::Timeout(_) => Fault::TimedOut,
            ureq::Error::BodyExceedsLimit(bytes) => {
                Fault::Passing(format!("the judge's response has more than {bytes} bytes"), None)
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => Fault::Final(Failure::Refused(reason)),
            _ => Fault::Passing(reason, None),
        }
    }

    /// The start of a service's words for a message: on one line, and without the key if they repeat it.
    pub(super) fn shown(&self, words: &str) -> String {
        let words = match &self.key {
            Some(Key(key)) => words.replace(key, "[key]"),
            None => words.to_string(),
        };
        let plain = |character: char| if character.is_control() { ' ' } else { character };
        words.chars().take(CHARACTERS_SHOWN).map(plain).collect()
    }
}

/// The seconds of a `Retry-After`. Where it is a date, the own wait does as well.
fn seconds(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
}

/// The wait after this many failed tries: doubled each time, and shortened by up to a half that differs between
/// questions, so that they do not come back together.
fn back_off(tries: u32, key: u64) -> Duration {
    let whole = BACK_OFF.saturating_mul(1_u32.checked_shl(tries).unwrap_or(u32::MAX)).min(BACK_OFF_MAX);
    let fraction = key_of(&[key, u64::from(tries)]) as f64 / u64::MAX as f64;
    whole.mul_f64(1.0 - 0.5 * fraction)
}

/// The address that questions are sent to.
fn endpoint(url: &str) -> Result<String, RewardError> {
    // The address may hold what is not to be shown, so the message says only what is wrong.
    let refused = |reason: &str| RewardError::config("url", reason);
    let uri: Uri = url.parse().map_err(|_| refused("is no address"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(refused("must start with http:// or https://"));
    }
    let authority = uri.authority().ok_or_else(|| refused("names no machine"))?;
    if authority.as_str().contains('@') {
        return Err(refused("must not have a user or password in it: use `api_key_env`"));
    }
    let path = uri.path().trim_end_matches('/');
    if path.ends_with("/chat/completions") {
        return Ok(url.to_string());
    }
    if uri.query().is_some() {
        return Err(refused("must end with /chat/completions before its `?`"));
    }
    let base = url.trim_end_matches('/');
    let version = if path.ends_with("/v1") { "" } else { "/v1" };
    Ok(format!("{base}{version}/chat/completions"))
}

fn is_on_this_machine(url: &str) -> bool {
    let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_string)).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_or_refused() {
        let whole = "https://api.example.com/v1/chat/completions";
        for url in
            ["https://api.example.com", "https://api.example.com/v1", "https://api.example.com/v1/", whole]
        {
            assert_eq!(endpoint(url).unwrap(), whole);
        }
        let versioned = "http://[::1]:80/x/chat/completions?version=1";
        assert_eq!(endpoint(versioned).unwrap(), versioned);
        for url in
            ["", "api.example.com/v1", "ftp://a/v1", "http://user:secret@a/v1", "http://a/v1?key=secret"]
        {
            let error = endpoint(url).unwrap_err().to_string();
            assert!(error.starts_with("url: ") && !error.contains("secret"), "{error}");
        }
        assert!(is_on_this_machine("http://127.0.0.1:80/") && is_on_this_machine("http://[::1]:8/v1"));
        assert!(is_on_this_machine("http://localhost/") && !is_on_this_machine("http://example.com/"));
    }

    #[test]
    fn waits_double_up_to_their_limit_and_differ() {
        for tries in 0..40 {
            let whole = (0.25 * 2.0_f64.powi(tries)).min(30.0);
            for key in 0..50 {
                let wait = back_off(tries as u32, key).as_secs_f64();
                assert!((0.5 * whole..=whole).contains(&wait), "{tries} {key} {wait}");
            }
        }
        assert_ne!(back_off(0, 1), back_off(0, 2));
        assert_eq!(seconds(" 7"), Some(Duration::from_secs(7)));
        assert_eq!(seconds("Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }

    #[test]
    fn keys_are_printable_and_not_printed() {
        assert!(Key::new("").is_none() && Key::new("a\nb").is_none() && Key::new("ä").is_none());
        assert_eq!(format!("{:?}", Key::new("sk-1")), "Some(Key(not shown))");
    }
}
