//! The format verifier: does a completion end in an answer that can be read at all?
//!
//! `boxed` asks for a last balanced `\boxed{...}` that holds well-formed mathematics, right or wrong. The check is
//! one pass of a small state machine with a bounded stack over LaTeX; nothing is calculated or run. `think_answer` and
//! `think_boxed` ask for a block of thinking before the answer. `task` asks the run's task for an answer line of its
//! form.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use crate::boxed::{BOX_BYTES_MAX, closing_brace, last_boxed};
use crate::tags::{ANSWER, only_answer, thought};
use crate::tasks::Task;
use crate::{Answer, RewardError, Verdict, Verifier};

/// What counts as the right format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FormatStyle {
    /// A last balanced `\boxed{...}` with well-formed mathematics in it.
    #[default]
    Boxed,
    /// `<think>...</think><answer>...</answer>`: each tag once and in this order, nothing but white space outside, and
    /// an answer that is not empty.
    ThinkAnswer,
    /// One `<think>...</think>` in front, and behind it a last balanced `\boxed{...}` with well-formed mathematics.
    ThinkBoxed,
    /// An answer line in the form of the run's task.
    Task,
}

/// The keys of `kind = "format"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormatConfig {
    /// What counts as the right format.
    #[serde(default)]
    pub style: FormatStyle,
    /// Whether the chat template ends with `<think>`, so that a completion begins inside the block of thinking.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub think_opened: bool,
}

/// 1 for the right format, else 0.
#[derive(Clone, Debug)]
pub struct FormatVerifier {
    form: Form,
}

/// A style with what it needs to know.
#[derive(Clone, Debug)]
enum Form {
    Boxed,
    ThinkAnswer { opened: bool },
    ThinkBoxed { opened: bool },
    Task(Task),
}

impl FormatVerifier {
    /// Judges by [`FormatStyle::Boxed`].
    pub fn boxed() -> Self {
        FormatVerifier { form: Form::Boxed }
    }

    /// Judges by [`FormatStyle::ThinkAnswer`]; `opened` says that the chat template writes the first tag.
    pub fn think_answer(opened: bool) -> Self {
        FormatVerifier { form: Form::ThinkAnswer { opened } }
    }

    /// Judges by [`FormatStyle::ThinkBoxed`]; `opened` says that the chat template writes the first tag.
    pub fn think_boxed(opened: bool) -> Self {
        FormatVerifier { form: Form::ThinkBoxed { opened } }
    }

    /// Judges by [`FormatStyle::Task`].
    pub fn of_task(task: Task) -> Self {
        FormatVerifier { form: Form::Task(task) }
    }

    /// Whether the format is right.
    pub fn is_right(&self, completion: &str) -> bool {
        let is_boxed = |text| last_boxed(text).is_some_and(is_well_formed);
        match &self.form {
            Form::Boxed => is_boxed(completion),
            Form::ThinkAnswer { opened } => thought(completion, *opened).is_some_and(|thought| {
                let hides_answer = thought.inside.contains(ANSWER.0) || thought.inside.contains(ANSWER.1);
                !hides_answer && only_answer(thought.after).is_some_and(|inside| !inside.trim().is_empty())
            }),
            Form::ThinkBoxed { opened } => {
                thought(completion, *opened).is_some_and(|thought| is_boxed(thought.after))
            }
            Form::Task(task) => task.answer_line(completion).is_some(),
        }
    }
}

impl Verifier for FormatVerifier {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        Ok(Verdict::from(self.is_right(answer.completion)))
    }
}

/// Groups may be nested this deep. Written mathematics stays under ten; the limit bounds the stack.
const DEPTH_MAX: usize = 64;

/// Letters in a row that still are a product of variables; a longer run is a word, and a word is not mathematics
/// outside of `\text{...}`.
const VARIABLES_MAX: usize = 3;

/// Capitals in a row that still are the corners of a figure or the digits of a base above ten.
const CAPITALS_MAX: usize = 8;

/// Commands that may stand behind the point of a decimal: the period in `0.\overline{3}`.
const PERIODS: [&str; 3] = [r"\overline", r"\bar", r"\dot"];

/// Symbols that stand for a value.
const VALUES: &str = "infty pi alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho \
    sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega emptyset \
    varnothing ell hbar imath jmath Re Im aleph partial nabla circ degree ldots cdots dots vdots ddots top bot \
    triangle angle checkmark star prime square";

/// Commands that need something behind them, and may carry scripts of their own.
const FUNCTIONS: &str = "sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan log ln lg exp min max sup inf lim gcd \
    lcm det dim ker deg arg Pr sum prod int iint oint bigcup bigcap neg lnot forall exists";

/// Operations and relations, which stand between two values.
const OPERATIONS: &str = "cdot times div ast star bmod mod le leq leqslant ge geq geqslant ne neq lt gt approx equiv cong sim \
    simeq propto in notin ni subset subseteq subsetneq supset supseteq cup cap setminus to rightarrow leftarrow \
    Rightarrow Leftarrow leftrightarrow Leftrightarrow implies iff mapsto longrightarrow mid nmid parallel perp wedge ll gg \
    vee land lor oplus otimes colon quad qquad choose over";

/// Spacing and sizes, which say nothing.
const SILENT: &str =
    "left right big Big bigg Bigg bigl bigr Bigl Bigr middle displaystyle textstyle limits not";

/// Commands with one argument of mathematics.
const ONE_ARGUMENT: &str = "sqrt overline underline vec hat bar tilde dot ddot mathbb mathbf mathcal mathfrak boldsymbol widehat \
    overrightarrow boxed bm mathscr pmod";

/// Commands with two arguments of mathematics.
const TWO_ARGUMENTS: &str = "frac dfrac tfrac cfrac binom dbinom tbinom";

/// Commands whose argument is plain text.
const TEXTS: &str = "text mathrm textbf textit textrm mbox operatorname mathit mathsf texttt textsf textup \
    textnormal";

/// What a command is to the state machine.
#[derive(Clone, Copy, PartialEq)]
enum Command {
    Value,
    Function,
    Operation,
    Silent,
    Arguments(u8),
    Text,
}

fn command(name: &str) -> Option<Command> {
    static SETS: LazyLock<Vec<(BTreeSet<&'static str>, Command)>> = LazyLock::new(|| {
        [
            (SILENT, Command::Silent),
            (VALUES, Command::Value),
            (FUNCTIONS, Command::Function),
            (OPERATIONS, Command::Operation),
            (ONE_ARGUMENT, Command::Arguments(1)),
            (TWO_ARGUMENTS, Command::Arguments(2)),
            (TEXTS, Command::Text),
        ]
        .map(|(names, kind)| (names.split_whitespace().collect(), kind))
        .into()
    });
    SETS.iter().find(|(names, _)| names.contains(name)).map(|&(_, kind)| kind)
}

/// A value or a function, and what may still be attached to it.
#[derive(Clone, Copy, Default, PartialEq)]
struct Atom {
    /// A function: not complete without something behind it.
    open: bool,
    /// A number: another number may not follow without an operation.
    number: bool,
    superscript: bool,
    subscript: bool,
}

/// What may come next.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// A group has begun: a value or a sign.
    Start,
    /// After an operation or separator: a value or a sign.
    Operation,
    /// A cell of an environment has begun: a value, a sign, a relation, or the next cell.
    Cell,
    /// After a sign: a value.
    Sign,
    /// After a value: anything. After an open function: a value or a script.
    Atom(Atom),
    /// The next token is an argument; this many are missing, then comes `then`.
    Argument { missing: u8, then: Atom },
}

/// How a group was opened.
#[derive(Clone, Copy, PartialEq)]
enum Opening<'a> {
    Brace,
    /// `(` or `[`, each closed by `)` or `]`: `[0, 1)` is an interval.
    Bracket,
    /// The `[3]` of `\sqrt[3]{x}`.
    Option,
    Bar,
    Set,
    /// `\lfloor`, `\lceil`, `\langle`, with the command that closes it.
    Fence(&'static str),
    /// `\begin{pmatrix}`.
    Environment(&'a str),
}

/// The state machine.
struct Parser<'a> {
    rest: &'a str,
    state: State,
    /// Open groups, each with the state that follows when it is closed.
    groups: Vec<(Opening<'a>, State)>,
}

/// Whether a text is well-formed mathematics in LaTeX or plain spelling. Empty text is not, and neither is text of
/// more than 64 KiB.
pub fn is_well_formed(text: &str) -> bool {
    if text.len() > BOX_BYTES_MAX {
        return false;
    }
    let mut parser = Parser { rest: text, state: State::Start, groups: Vec::new() };
    while let Some(first) = parser.rest.chars().next() {
        if parser.take(first).is_none() {
            return false;
        }
    }
    parser.groups.is_empty() && parser.is_complete()
}

impl<'a> Parser<'a> {
    /// Whether the present group could end here.
    fn is_complete(&self) -> bool {
        matches!(self.state, State::Atom(Atom { open: false, .. }))
    }

    /// Takes one token; `None` means that the text is not well-formed.
    fn take(&mut self, first: char) -> Option<()> {
        let token = self.rest;
        self.rest = &token[first.len_utf8()..];
        match first {
            _ if first.is_whitespace() => Some(()),
            '~' | '$' | '€' | '£' | '¥' => Some(()),
            '.' if token.starts_with("...") => self.take_dots(),
            '0'..='9' | '.' => self.take_number(token),
            '\\' => self.take_command(),
            // The comma of thousands, in braces against the space that TeX puts behind a comma.
            '{' if self.rest.starts_with(",}") => {
                self.rest = &self.rest[2..];
                self.operation(',')
            }
            '{' => self.open(Opening::Brace),
            '}' => self.close(Opening::Brace),
            '(' | '[' => self.open_bracket(first),
            ')' | ']' => self.close_bracket(first),
            '|' => self.bar(),
            '+' | '-' | '−' | '±' => self.sign(),
            '*' | '/' | '=' | '<' | '>' | ',' | ';' | ':' | '·' | '×' | '÷' | '≤' | '≥' | '≠' | '≈' | '∈'
            | '∪' | '∩' | '→' => self.operation(first),
            '!' | '\'' | '%' | '°' | '′' | '¢' | '¹' | '²' | '³' | '⁴'..='⁹' | '⁰' => {
                self.postfix()
            }
            '^' => self.script(true),
            '_' => self.script(false),
            '&' => self.separator(),
            '∞' | '√' | '∅' | 'π' | '…' | '½' | '⅓' | '⅔' | '¼' | '¾' => {
                self.value(Atom { open: first == '√', ..Atom::default() })
            }
            _ if first.is_alphabetic() => self.take_letters(token),
            _ => None,
        }
    }

    /// A value, or the single token that is an argument.
    fn value(&mut self, atom: Atom) -> Option<()> {
        self.state = match self.state {
            State::Atom(before) if before.number && atom.number => return None,
            State::Argument { .. } if atom.open => return None,
            State::Argument { missing: 1, then } => State::Atom(then),
            State::Argument { missing, then } => State::Argument { missing: missing - 1, then },
            _ => State::Atom(atom),
        };
        Some(())
    }

    fn take_number(&mut self, token: &'a str) -> Option<()> {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let whole = digits(token);
        let part = token[whole..].strip_prefix('.').map_or(0, digits);
        // `\frac12` has two arguments of one digit each.
        let is_argument = matches!(self.state, State::Argument { .. });
        let has_period = || {
            let behind = token[whole..].strip_prefix('.');
            whole > 0 && behind.is_some_and(|behind| PERIODS.iter().any(|period| behind.starts_with(period)))
        };
        let length = match (is_argument, part) {
            (true, _) => whole.min(1),
            (false, 0) if has_period() => whole + 1,
            (false, 0) => whole,
            (false, part) => whole + 1 + part,
        };
        self.rest = (length > 0).then(|| &token[length..])?;
        self.value(Atom { number: true, ..Atom::default() })
    }

    /// `...`, which stands for what was left out.
    fn take_dots(&mut self) -> Option<()> {
        self.rest = self.rest.trim_start_matches('.');
        self.value(Atom::default())
    }

    fn take_letters(&mut self, token: &'a str) -> Option<()> {
        if let State::Argument { .. } = self.state {
            return self.value(Atom::default());
        }
        let end = token.find(|letter: char| !letter.is_alphabetic()).unwrap_or(token.len());
        let letters = &token[..end];
        self.rest = &token[end..];
        match command(letters) {
            // `sin x` and `log_2 8` are common without their backslashes.
            Some(Command::Function) => self.value(Atom { open: true, ..Atom::default() }),
            _ if letters.chars().nth(VARIABLES_MAX).is_none() => self.value(Atom::default()),
            _ if letters.len() <= CAPITALS_MAX
                && letters.bytes().all(|letter| letter.is_ascii_uppercase()) =>
            {
                self.value(Atom::default())
            }
            _ => None,
        }
    }

    fn take_command(&mut self) -> Option<()> {
        let end = self.rest.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(self.rest.len());
        let (name, after) = self.rest.split_at(end);
        if name.is_empty() {
            return self.take_escaped();
        }
        self.rest = after;
        match name {
            "pm" | "mp" => return self.sign(),
            "begin" | "end" => return self.environment(name == "begin"),
            "lfloor" => return self.open(Opening::Fence("rfloor")),
            "lceil" => return self.open(Opening::Fence("rceil")),
            "langle" => return self.open(Opening::Fence("rangle")),
            "rfloor" | "rceil" | "rangle" => {
                let closes =
                    matches!(self.groups.last(), Some((Opening::Fence(closing), _)) if *closing == name);
                let opening = self.groups.last().filter(|_| closes)?.0;
                return self.close(opening);
            }
            "lbrace" => return self.open(Opening::Set),
            "rbrace" => return self.close_set(),
            "vert" | "lvert" | "rvert" => return self.bar(),
            _ => {}
        }
        match command(name)? {
            Command::Silent => Some(()),
            Command::Value => self.value(Atom::default()),
            Command::Function => self.value(Atom { open: true, ..Atom::default() }),
            Command::Operation if name.ends_with("quad") => Some(()),
            Command::Operation => self.operation(' '),
            Command::Arguments(missing) => self.arguments(missing),
            Command::Text => self.take_text(),
        }
    }

    /// A backslash before something that is not a letter.
    fn take_escaped(&mut self) -> Option<()> {
        let first = self.rest.chars().next()?;
        self.rest = &self.rest[first.len_utf8()..];
        match first {
            // A thin space may separate thousands, so it lets a number follow a number.
            ',' | '!' | ';' | ':' | ' ' => {
                if let State::Atom(atom) = &mut self.state {
                    atom.number = false;
                }
                Some(())
            }
            '%' => self.postfix(),
            '$' | '(' | ')' | '[' | ']' => Some(()),
            '{' => self.open(Opening::Set),
            '}' => self.close_set(),
            '\\' => self.separator(),
            '|' => self.bar(),
            _ => None,
        }
    }

    /// A command that takes arguments begins a value.
    fn arguments(&mut self, missing: u8) -> Option<()> {
        self.value(Atom::default())?;
        match self.state {
            State::Atom(then) => self.state = State::Argument { missing, then },
            // An argument of an argument needs braces of its own.
            _ => return None,
        }
        Some(())
    }

    /// `{plain text}`, which is a value whatever it says, unless it says nothing.
    fn take_text(&mut self) -> Option<()> {
        let inside = self.rest.trim_start().strip_prefix('{')?;
        let end = closing_brace(inside.as_bytes(), 0)?;
        let said = !inside[..end].trim().is_empty();
        self.rest = said.then(|| &inside[end + 1..])?;
        self.value(Atom::default())
    }

    /// A sign between values is an operation, and before a value it is a sign, but only one.
    fn sign(&mut self) -> Option<()> {
        self.state = match self.state {
            State::Atom(Atom { open: false, .. }) => State::Operation,
            State::Start | State::Operation | State::Cell | State::Atom(_) => State::Sign,
            State::Sign | State::Argument { .. } => return None,
        };
        Some(())
    }

    fn operation(&mut self, first: char) -> Option<()> {
        // `<=`, `>=` and `==` are one relation.
        if matches!(first, '<' | '>' | '=') {
            self.rest = self.rest.strip_prefix('=').unwrap_or(self.rest);
        }
        // A cell may end in the comma of a sentence, and begin with the relation of a line that goes on.
        if first == ',' && self.is_complete() && self.cell_ends() {
            return Some(());
        }
        let goes_on = self.state == State::Cell && matches!(first, '<' | '>' | '=' | '≤' | '≥' | '≠' | '≈');
        self.state = (self.is_complete() || goes_on).then_some(State::Operation)?;
        Some(())
    }

    /// Whether a separator of cells comes next.
    fn cell_ends(&self) -> bool {
        let is_inside = matches!(self.groups.last(), Some((Opening::Environment(_), _)));
        let behind = self.rest.trim_start();
        is_inside && (behind.starts_with('&') || behind.starts_with(r"\\"))
    }

    fn postfix(&mut self) -> Option<()> {
        match &mut self.state {
            State::Atom(atom) if !atom.open => atom.number = false,
            _ => return None,
        }
        Some(())
    }

    /// One superscript and one subscript a value: TeX itself refuses a second.
    fn script(&mut self, superscript: bool) -> Option<()> {
        let State::Atom(mut then) = self.state else { return None };
        let taken = if superscript { &mut then.superscript } else { &mut then.subscript };
        if std::mem::replace(taken, true) {
            return None;
        }
        then.number = false;
        self.state = State::Argument { missing: 1, then };
        Some(())
    }

    fn open(&mut self, opening: Opening<'a>) -> Option<()> {
        let after = match (opening, self.state) {
            (Opening::Option, state) => state,
            (Opening::Brace, State::Argument { missing: 1, then }) => State::Atom(then),
            (Opening::Brace, State::Argument { missing, then }) => {
                State::Argument { missing: missing - 1, then }
            }
            (_, State::Argument { .. }) => return None,
            _ => State::Atom(Atom::default()),
        };
        if self.groups.len() == DEPTH_MAX {
            return None;
        }
        self.groups.push((opening, after));
        self.state = State::Start;
        Some(())
    }

    fn close(&mut self, opening: Opening<'a>) -> Option<()> {
        let &(opened, after) = self.groups.last()?;
        let empty_set = opened == Opening::Set && self.state == State::Start;
        if opened != opening || !(self.is_complete() || empty_set) {
            return None;
        }
        self.groups.pop();
        self.state = after;
        Some(())
    }

    /// `[` before an argument is the option of a root.
    fn open_bracket(&mut self, first: char) -> Option<()> {
        let is_option = first == '[' && matches!(self.state, State::Argument { .. });
        self.open(if is_option { Opening::Option } else { Opening::Bracket })
    }

    fn close_bracket(&mut self, first: char) -> Option<()> {
        let is_option = first == ']' && matches!(self.groups.last(), Some((Opening::Option, _)));
        self.close(if is_option { Opening::Option } else { Opening::Bracket })
    }

    fn close_set(&mut self) -> Option<()> {
        self.close(Opening::Set)
    }

    /// A bar closes an open bar, separates inside a set, and else opens.
    fn bar(&mut self) -> Option<()> {
        match (self.groups.last(), self.is_complete()) {
            (Some((Opening::Bar, _)), true) => self.close(Opening::Bar),
            (Some((Opening::Set, _)), true) => self.operation('|'),
            _ => self.open(Opening::Bar),
        }
    }

    /// `\begin{name}` and `\end{name}`.
    fn environment(&mut self, begins: bool) -> Option<()> {
        let inside = self.rest.strip_prefix('{')?;
        let end = inside.find(|letter: char| !letter.is_ascii_alphabetic())?;
        let name = &inside[..end];
        self.rest = inside[end..].strip_prefix('}')?;
        if begins {
            if name == "array" {
                // `{c|c}` says how the columns stand.
                self.rest = self.rest.trim_start().strip_prefix('{')?.split_once('}')?.1;
            }
            return self.open(Opening::Environment(name));
        }
        // A last row may be ended as the others are, and a last cell may be empty.
        if self.state == State::Cell {
            self.state = State::Atom(Atom::default());
        }
        self.close(Opening::Environment(name))
    }

    /// `&` and `\\` separate the cells of an environment.
    fn separator(&mut self) -> Option<()> {
        self.groups.last().filter(|(opening, _)| matches!(opening, Opening::Environment(_)))?;
        let is_empty = matches!(self.state, State::Start | State::Cell);
        self.state = (is_empty || self.is_complete()).then_some(State::Cell)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;
    use crate::stopwatch::seconds;

    #[test]
    fn well_formed_mathematics() {
        let texts = [
            "1",
            r"\frac{3}{2}",
            "x^2 + 12y = 1",
            r"(0,\infty)",
            "-3",
            "x = -2",
            "2(3+4)",
            r"\frac12",
            r"\sqrt2",
            r"\sqrt[3]{x+1}",
            r"\sin^2 x + \cos^2 x = 1",
            r"\log_2 8",
            "log_2 8",
            r"\left(0, 1\right]",
            "[0,1)",
            r"(-\infty, 0) \cup (0, \infty)",
            r"\{1, 2, 3\}",
            r"\{\}",
            r"\{x | x > 0\}",
            "|x-1| = 2",
            "2|x|",
            "n!",
            r"50\%",
            "50%",
            r"90^\circ",
            r"90^{\circ}",
            r"\text{Yes}",
            r"5\text{ cm}^2",
            "x_1^2",
            "x_{n+1}",
            "f'(x)",
            "1,234",
            r"1\,234",
            "1,\\!234",
            "3.14",
            ".5",
            "1:2",
            "3x",
            r"2\pi r",
            "ab",
            r"\dfrac{-b \pm c}{2a}",
            r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
            r"\lfloor x \rfloor",
            r"\sum_{i=1}^{n} i",
            r"\mathbb{R}",
            "x <= 2",
            "2^{10}",
            "e^{i\\pi}",
            r"\binom{n}{k}",
            r"1\frac{1}{2}",
            "((1))",
            r"x \in [0, 1]",
            "π/2",
            "x≥2",
            r"\pm 3",
        ];
        for text in texts {
            assert!(is_well_formed(text), "{text}");
        }
    }

    #[test]
    fn answers_as_they_are_written() {
        let texts = [
            r"\text{Evelyn}",
            r"\text{(C)}",
            r"\text{because } x > 0",
            r"\text{about \frac{1}{2} of it}",
            "A",
            "(B)",
            "A, C, D",
            r"45^\circ",
            r"45\degree",
            r"30°",
            r"[1, 2)",
            r"\left(-\infty, -3\right] \cup \left[2, \infty\right)",
            r"x \in [1,2)",
            r"x \in \mathbb{R} \setminus \{0\}",
            r"\left\{ 1, -2, \frac{1}{3} \right\}",
            r"\{(1,2), (3,4)\}",
            r"\{x \mid x \ge 2\}",
            r"\begin{bmatrix} -1 & 0 \\ 0 & \frac{1}{2} \\ \end{bmatrix}",
            r"\begin{pmatrix} 1 \\ 2 \\ 3 \end{pmatrix}",
            r"\begin{array}{cc|c} 1 & 2 & 3 \\ & 5 & \end{array}",
            r"\begin{cases} x + 1, & x > 0 \\ -x, & x \le 0 \end{cases}",
            r"\begin{aligned} x &= 1 \\ y &= 2 \end{aligned}",
            r"\$18",
            r"\$18.90",
            r"18\$",
            "$18$",
            "€5",
            r"1{,}234",
            r"12{,}345{,}678",
            r"10\%",
            r"3\sqrt{2}",
            r"-\frac{35}{9}",
            r"\frac{\sqrt3}2",
            r"1101_2",
            r"1101_{2}",
            r"2A5_{16}",
            "BEEF_{16}",
            "ABCDE",
            r"0.\overline{36}",
            r"0.1\overline{6}",
            r"5 \pmod{7}",
            r"x \equiv 3 \pmod 7",
            "1, 2, ..., n",
            r"1, 2, \ldots, n",
            r"3.5 \times 10^{-5}",
            r"x = 3 \text{ or } x = 5",
            r"12\,\mathrm{cm}^2",
            r"7:30 \text{ a.m.}",
            "5²",
            "½",
            r"\[5\]",
        ];
        for text in texts {
            assert!(is_well_formed(text), "{text}");
        }
    }

    #[test]
    fn text_that_is_not_mathematics() {
        let texts = [
            "",
            " ",
            "x +* 2",
            "(0,1 ",
            "x +",
            "* 2",
            "= 5",
            "1 2",
            "1.2.3",
            "5.",
            "()",
            "{}",
            "(1",
            "1)",
            "{1",
            "1,",
            ",1",
            "1,,2",
            "--1",
            "1 + - - 2",
            r"\frac{1}",
            r"\frac{}{2}",
            r"\frac",
            r"\sqrt",
            "x^",
            "^2",
            "x^2^3",
            r"\sin",
            r"\unknown{1}",
            r"\text{}",
            "the answer is five",
            "hello",
            "x = = 2",
            "|x",
            r"\{1",
            r"\lfloor x \rceil",
            r"\begin{pmatrix} 1 \end{matrix}",
            r"1 \\ 2",
            "1 & 2",
            "#",
            "1\0",
            "5 @ 6",
            r"\(",
            r"\",
            r"x \cdot",
            "?",
            "\"5\"",
            "__import__('os')",
            "[1, 2",
            "(1, 2}",
        ];
        for text in texts {
            assert!(!is_well_formed(text), "{text}");
        }
    }

    #[test]
    fn near_misses_of_answers() {
        let texts = [
            "Evelyn",
            "True",
            "LONGERTHANTHAT",
            r"\text{Evelyn",
            r"\text{ }",
            r"1{,}",
            r"{,}1",
            "..",
            r".\overline{3}",
            r"1\overline",
            r"x \in",
            r"\$",
            r"\%",
            "[1,2",
            r"\begin{pmatrix} 1 & \end{bmatrix}",
            r"\begin{pmatrix} 1 & 2",
            r"\begin{array} 1 & 2 \end{array}",
            r"\begin{aligned} x &* 1 \end{aligned}",
            r"\begin{cases} 1,, & x \end{cases}",
            "&= 1",
            "= 1",
        ];
        for text in texts {
            assert!(!is_well_formed(text), "{text}");
        }
    }

    #[test]
    fn the_last_box_decides() {
        let format = FormatVerifier::boxed();
        assert!(format.is_right(r"thus \boxed{\frac{3}{2}}."));
        assert!(format.is_right(r"\boxed{} or \boxed{2}"));
        assert!(!format.is_right(r"\boxed{2} or \boxed{}"));
        assert!(!format.is_right("2"));
        assert!(!format.is_right(r"\boxed{(0,1 }"));
    }

    #[test]
    fn thinking_and_an_answer_stand_once_and_in_order() {
        let is_right = |text| FormatVerifier::think_answer(false).is_right(text);
        for text in [
            "<think>why</think><answer>4</answer>",
            "\n<think>\nwhy\n</think>\n\n<answer>\n4\n</answer>\n",
            "<think></think><answer>any words</answer>",
        ] {
            assert!(is_right(text), "{text}");
        }
        for text in [
            "",
            "4",
            "<think>why</think>",
            "<answer>4</answer>",
            "<answer>4</answer><think>why</think>",
            "<think>why</think><answer></answer>",
            "<think>why</think><answer> \n</answer>",
            "<think>why</think>so<answer>4</answer>",
            "<think>why</think><answer>4</answer>.",
            "<think>why<answer>3</answer></think><answer>4</answer>",
            "<think>why<answer></think>4</answer>",
            "<think>why</think><answer>4</answer><answer>4</answer>",
            "<think>why</think><think>more</think><answer>4</answer>",
            "<think>why</think><answer>4</think></answer>",
            "why</think><answer>4</answer>",
        ] {
            assert!(!is_right(text), "{text}");
        }
        assert!(FormatVerifier::think_answer(true).is_right("why</think><answer>4</answer>"));
        assert!(!FormatVerifier::think_answer(true).is_right("<think>why</think><answer>4</answer>"));
    }

    #[test]
    fn a_box_counts_behind_the_thinking_only() {
        let is_right = |text| FormatVerifier::think_boxed(false).is_right(text);
        assert!(is_right(r"<think>perhaps \boxed{3}</think> It is \boxed{4}."));
        for text in [
            r"\boxed{4}",
            r"<think>\boxed{4}</think>",
            r"<think>why</think>4",
            r"<think>why</think>\boxed{}",
            r"<think>why</think>\boxed{4 +}",
            r"so <think>why</think>\boxed{4}",
            r"<think>why</think><think>why</think>\boxed{4}",
        ] {
            assert!(!is_right(text), "{text}");
        }
        assert!(FormatVerifier::think_boxed(true).is_right(r"why</think>\boxed{4}"));
    }

    #[test]
    fn nesting_has_a_limit() {
        let nested = |depth: usize| "(".repeat(depth) + "1" + &")".repeat(depth);
        assert!(is_well_formed(&nested(DEPTH_MAX)));
        assert!(!is_well_formed(&nested(DEPTH_MAX + 1)));
    }

    #[test]
    fn hostile_text_is_checked_in_linear_time() {
        for piece in [
            "{",
            "1+",
            "x",
            r"\frac",
            r"\text{",
            "(1)",
            "|1|",
            "{1}",
            "\\",
            " ",
            "1,",
            r"\pi ",
            r"\boxed{",
            "1, ",
            r"\text{a}",
            r"\begin{array}{c}",
            "<think>",
            "</think>",
            "<answer>",
        ] {
            let longest = piece.repeat(BOX_BYTES_MAX / piece.len());
            let text = piece.repeat(10_000_000 / piece.len());
            let taken = seconds(|| {
                is_well_formed(&longest);
                FormatVerifier::boxed().is_right(&text);
                FormatVerifier::think_answer(false).is_right(&text);
                FormatVerifier::think_boxed(false).is_right(&text);
            });
            assert!(taken < 1.0, "{piece}: {taken} s");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_check_panic(text in any::<String>()) {
            is_well_formed(&text);
            FormatVerifier::boxed().is_right(&format!("\\boxed{{{text}}}"));
            for opened in [false, true] {
                let answered = format!("<think>{text}</think><answer>{text}</answer>");
                FormatVerifier::think_answer(opened).is_right(&answered);
                FormatVerifier::think_boxed(opened).is_right(&format!("{text}</think>\\boxed{{{text}}}"));
            }
        }

        #[test]
        fn well_formed_text_stays_so_in_parentheses_and_not_with_a_dangling_operation(
            pieces in proptest::collection::vec(proptest::sample::select(vec![
                "1", "x", "+", "-", "(", ")", r"\frac", "{", "}", "^", "_", ",", "|", r"\{", r"\}", r"\sqrt", "[", "]", " ", r"\sin",
            ]), 0..12),
        ) {
            let text: String = pieces.concat();
            if is_well_formed(&text) {
                let in_parentheses = format!("({text})");
                let dangling = format!("{text}*");
                let unbalanced = format!("{text})");
                prop_assert!(is_well_formed(&in_parentheses), "{in_parentheses}");
                prop_assert!(!is_well_formed(&dangling) && !is_well_formed(&unbalanced), "{text}");
            }
        }
    }
}
