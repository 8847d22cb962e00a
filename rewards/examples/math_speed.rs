//! How fast the mathematics verifier is: typical verdicts a second on one core, and the longest verdict on hostile
//! texts of ten megabytes. Run it in release.

use std::time::Instant;

use rewards::{Answer, MathConfig, MathVerifier, Verifier};

/// Typical pairs of final answer and reference, right and wrong, in the mix of mathematics benchmarks: mostly numbers,
/// then fractions, roots, polynomials, tuples, intervals, units and choices.
const PAIRS: [(&str, &str); 24] = [
    ("42", "42"),
    ("204", "113"),
    ("-7", "-7"),
    ("1,234", "1234"),
    (r"\frac{3}{4}", "0.75"),
    (r"\dfrac{14}{3}", r"\frac{14}{3}"),
    (r"\frac{7}{8}", r"\frac{8}{7}"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"3\sqrt{13}", r"13\sqrt{3}"),
    (r"\frac{\pi}{6}", r"\pi/6"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac{2}{7}"),
    ("6r^2-4r-24", "6r^2-4r+24"),
    ("(3, -1)", r"\left( 3, -1 \right)"),
    ("1, -2", r"\{-2, 1\}"),
    (r"x \ge 3", r"[3, \infty)"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
    (r"15 \text{ cm}^2", "15"),
    (r"90^\circ", "90"),
    (r"\text{(B)}", "B"),
    ("3+4i", "4i+3"),
    ("x = 5", "5"),
    (r"\text{Evelyn}", "Evelyn"),
    ("10080", r"10,\!080"),
];

const HOSTILE: [&str; 22] = [
    "{",
    "}",
    "(",
    r"\{",
    r"\left(",
    r"\boxed{",
    r"\frac{",
    r"\frac{1}{",
    r"\sqrt{",
    "1",
    "1,",
    "9^{",
    "-",
    "|x",
    "\0",
    "é",
    "１",
    "$",
    r"\text{",
    "answer is ",
    "<think>",
    "####",
];

fn verdict(verifier: &MathVerifier, completion: &str, reference: &str) -> f64 {
    let fields = serde_json::Map::new();
    let answer = Answer {
        prompt: "",
        completion,
        references: &[reference.to_string()],
        fields: &fields,
        tokens: 1,
        truncated: false,
    };
    verifier.verify(&answer).map_or(0.0, |verdict| verdict.value)
}

fn main() -> Result<(), rewards::RewardError> {
    let verifier = MathVerifier::new(MathConfig::default())?;
    // A solution of some length stands before the answer.
    let reasoning = "Then $x^2 = 4$ and so we get \\[ \\frac{1}{2} \\cdot 6 = 3. \\] ".repeat(30);
    let completions: Vec<String> =
        PAIRS.iter().map(|(answer, _)| format!("{reasoning}The answer is $\\boxed{{{answer}}}$.")).collect();
    let start = Instant::now();
    let (mut verdicts, mut right) = (0u32, 0.0);
    while start.elapsed().as_secs_f64() < 2.0 {
        for (completion, (_, reference)) in completions.iter().zip(PAIRS) {
            right += verdict(&verifier, completion, reference);
            verdicts += 1;
        }
    }
    let rate = f64::from(verdicts) / start.elapsed().as_secs_f64();
    println!("{rate:.0} verdicts a second, {:.2} of them right", right / f64::from(verdicts));

    let mut longest = (0.0, "");
    for piece in HOSTILE {
        let text = piece.repeat(10_000_000 / piece.len());
        let boxed = format!("{text}\\boxed{{{}}}", piece.repeat(65_000 / piece.len()));
        for (completion, reference) in [(&text, "1/3"), (&boxed, "1/3"), (&boxed, boxed.as_str())] {
            let start = Instant::now();
            verdict(&verifier, completion, reference);
            let taken = start.elapsed().as_secs_f64();
            println!("{piece:?}: {:.1} ms", taken * 1e3);
            if taken > longest.0 {
                longest = (taken, piece);
            }
        }
    }
    println!("longest verdict on ten megabytes: {:.1} ms ({:?})", longest.0 * 1e3, longest.1);
    Ok(())
}
