//! What each command of LaTeX is to the reader.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::Token;
use super::words::function;
use crate::latex::expression::{Constant, Relation};
use crate::latex::unicode::GREEK;

/// What a command does.
#[derive(Clone)]
pub(super) enum Meaning {
    /// Sets type or space.
    Nothing,
    Token(Token),
    /// Its argument is text.
    Text,
    /// This many arguments are not shown.
    Dropped(u8),
    /// A length follows, which is not shown.
    Length,
    /// A size of the bracket behind it.
    Delimiter,
    /// `\not`.
    Negated,
    /// Something is put over or under something else.
    Stacked(&'static str),
    /// An arrow with writing on it.
    Arrow(Relation),
    /// `\begin` and `\end`.
    Environment,
}

/// Commands that set type or space and have no argument of their own.
const SILENT: &str = " displaystyle textstyle scriptstyle scriptscriptstyle limits nolimits thinspace medspace thickspace enspace \
    negthinspace negmedspace negthickspace enskip nonumber notag middle strut mathstrut null allowbreak nobreak noindent centering \
    relax protect hfill tiny scriptsize footnotesize small normalsize large Large LARGE huge Huge bfseries mdseries itshape \
    slshape scshape upshape rmfamily sffamily ttfamily normalfont boldmath unboldmath it em sl sf tt sc cal ensuremath boxed \
    bold Bbb frak scr num framed ovalbox shadowbox doublebox circled Aboxed vcenter hfil hss leavevmode indent bigskip \
    medskip smallskip mathord mathbin mathrel mathopen mathclose mathpunct mathinner mathop underline uline uuline smash mathclap mathllap mathrlap \
    rlap llap clap par newline linebreak nolinebreak hline space ";

/// Commands whose argument is text, or letters in another type.
const TEXTS: &str = " text textbf textit textrm textnormal textsf texttt textsc textsl textup textmd unit si pu textsuperscript textsubscript emph mbox hbox vbox fbox \
    framebox makebox mathrm mathit mathbf mathsf mathtt mathnormal mathcal mathbb mathfrak mathscr operatorname bf rm boldsymbol \
    bm pmb ";

/// Commands with an option that is not shown and an argument that is.
const DROPPED_NONE: &str = " bbox hyperref fancybox ";

/// Commands with one argument that is not shown.
const DROPPED_ONE: &str = " color textcolor mathcolor colorbox tag label phantom hphantom vphantom class cssId style htmlClass htmlId \
    htmlStyle href raisebox scalebox rotatebox require enclose cite ref eqref hypertarget hyperlink ";

/// Commands with two arguments that are not shown.
const DROPPED_TWO: &str = " fcolorbox rule resizebox definecolor setcounter ";

/// Commands with a length that is not shown.
const LENGTHS: &str = " hspace vspace kern mkern hskip mskip mspace vskip ";

/// Sizes of brackets.
const DELIMITERS: &str = " left right bigl bigr Bigl Bigr big Big bigg Bigg biggl biggr Biggl Biggr bigm Bigm biggm Biggm mleft mright ";

/// Marks over, under or across an argument.
const ACCENTS: &[&str] = &[
    "overline",
    "overrightarrow",
    "overleftarrow",
    "overleftrightarrow",
    "vec",
    "hat",
    "bar",
    "tilde",
    "widehat",
    "widetilde",
    "dot",
    "ddot",
    "check",
    "breve",
    "acute",
    "grave",
    "mathring",
    "overbrace",
    "underbrace",
    "overset",
    "underset",
    "stackrel",
    "cancel",
    "bcancel",
    "xcancel",
    "sout",
    "substack",
    "overparen",
    "wideparen",
    "overarc",
    "underbar",
];

/// Prefixes and big operators that are not evaluated.
const OPERATORS: &[&str] = &[
    "sum",
    "prod",
    "coprod",
    "int",
    "iint",
    "iiint",
    "oint",
    "lim",
    "limsup",
    "liminf",
    "varlimsup",
    "varliminf",
    "sup",
    "inf",
    "bigcup",
    "bigcap",
    "bigoplus",
    "bigotimes",
    "bigvee",
    "bigwedge",
    "det",
    "dim",
    "ker",
    "deg",
    "arg",
    "argmin",
    "argmax",
    "Pr",
    "hom",
    "neg",
    "lnot",
    "forall",
    "exists",
    "nexists",
    "coth",
    "Re",
    "Im",
];

/// Operations between two values that are not evaluated.
const BINARIES: &[&str] = &[
    "oplus",
    "ominus",
    "otimes",
    "oslash",
    "odot",
    "bullet",
    "ltimes",
    "rtimes",
    "sqcup",
    "sqcap",
    "uplus",
    "amalg",
    "diamond",
    "triangleleft",
    "triangleright",
    "bigcirc",
    "dagger",
];

/// Relations that are compared by their name.
const RELATIONS: &[&str] = &[
    "cong",
    "sim",
    "propto",
    "notin",
    "ni",
    "subset",
    "subseteq",
    "subsetneq",
    "supset",
    "supseteq",
    "supsetneq",
    "to",
    "gets",
    "rightarrow",
    "leftarrow",
    "Rightarrow",
    "Leftarrow",
    "leftrightarrow",
    "Leftrightarrow",
    "longrightarrow",
    "longleftarrow",
    "Longrightarrow",
    "Longleftarrow",
    "Longleftrightarrow",
    "longleftrightarrow",
    "hookrightarrow",
    "rightharpoonup",
    "rightleftharpoons",
    "uparrow",
    "downarrow",
    "nearrow",
    "searrow",
    "implies",
    "impliedby",
    "iff",
    "mapsto",
    "longmapsto",
    "nmid",
    "parallel",
    "nparallel",
    "perp",
    "ll",
    "gg",
    "prec",
    "succ",
    "preceq",
    "succeq",
    "models",
    "vdash",
    "doteq",
    "asymp",
    "bowtie",
    "not to",
    "not equiv",
    "not cong",
    "not sim",
    "not subset",
    "not subseteq",
    "not supset",
    "not supseteq",
    "not parallel",
    "not perp",
    "not prec",
    "not succ",
    "because",
];

/// Signs that stand for a value of their own.
const VALUES: &str = " hbar nabla partial aleph beth top bot checkmark bigstar square blacksquare Box Diamond ell jmath \
    spadesuit heartsuit diamondsuit clubsuit sharp flat natural vdots ddots infinity wp eth angle triangle measuredangle S P \
    circledast blacktriangle bigtriangleup lozenge varpi varsigma digamma varkappa ";

/// The commands of the lists above by their names.
static LISTED: LazyLock<HashMap<&'static str, Meaning>> = LazyLock::new(|| {
    let mut listed = HashMap::new();
    let mut add = |names: &mut dyn Iterator<Item = &'static str>,
                   meaning: &dyn Fn(&'static str) -> Meaning| {
        for name in names {
            listed.entry(name).or_insert_with(|| meaning(name));
        }
    };
    let name = |name: &str| Meaning::Token(Token::Name(name.to_string()));
    add(&mut DELIMITERS.split_whitespace(), &|_| Meaning::Delimiter);
    add(&mut TEXTS.split_whitespace(), &|_| Meaning::Text);
    add(&mut SILENT.split_whitespace(), &|_| Meaning::Nothing);
    add(&mut DROPPED_NONE.split_whitespace(), &|_| Meaning::Dropped(0));
    add(&mut DROPPED_ONE.split_whitespace(), &|_| Meaning::Dropped(1));
    add(&mut DROPPED_TWO.split_whitespace(), &|_| Meaning::Dropped(2));
    add(&mut LENGTHS.split_whitespace(), &|_| Meaning::Length);
    add(&mut ACCENTS.iter().copied(), &|accent| Meaning::Token(Token::Accent(accent)));
    add(&mut OPERATORS.iter().copied(), &|operator| Meaning::Token(Token::Operator(operator)));
    add(&mut BINARIES.iter().copied(), &|binary| Meaning::Token(Token::Binary(binary)));
    add(&mut RELATIONS.iter().copied(), &|other| Meaning::Token(Token::Relation(Relation::Other(other))));
    add(&mut VALUES.split_whitespace(), &name);
    add(&mut GREEK.iter().map(|greek| greek.1), &name);
    listed
});

/// What a relation is called with `\not` before it.
pub(super) fn negated(name: &str) -> Option<&'static str> {
    RELATIONS.iter().copied().find(|known| known.strip_prefix("not ") == Some(name))
}

/// What a command does, or `None` for one that is not known.
pub(super) fn meaning(name: &str) -> Option<Meaning> {
    if let Some(token) = token(name) {
        return Some(Meaning::Token(token));
    }
    Some(match name {
        "begin" | "end" => Meaning::Environment,
        "not" => Meaning::Negated,
        "overset" => Meaning::Stacked("overset"),
        "underset" => Meaning::Stacked("underset"),
        "stackrel" => Meaning::Stacked("stackrel"),
        "xrightarrow" => Meaning::Arrow(Relation::Other("rightarrow")),
        "xleftarrow" => Meaning::Arrow(Relation::Other("leftarrow")),
        "xRightarrow" => Meaning::Arrow(Relation::Other("Rightarrow")),
        "xLeftarrow" => Meaning::Arrow(Relation::Other("Leftarrow")),
        "xleftrightarrow" => Meaning::Arrow(Relation::Other("leftrightarrow")),
        "xlongequal" => Meaning::Arrow(Relation::Equal),
        _ => return LISTED.get(name).cloned(),
    })
}

/// The token that a command stands for, if it has a meaning of its own.
fn token(name: &str) -> Option<Token> {
    if let Some(function) = function(name) {
        return Some(Token::Function(function));
    }
    let relation = |relation| Some(Token::Relation(relation));
    let sign = |sign| Some(Token::Sign(sign));
    match name {
        "frac" | "dfrac" | "tfrac" | "cfrac" | "sfrac" | "nicefrac" => Some(Token::Command("frac")),
        "binom" | "dbinom" | "tbinom" => Some(Token::Command("binom")),
        "choose" => Some(Token::Command("choose")),
        "over" => Some(Token::Command("over")),
        "sqrt" => Some(Token::Command("sqrt")),
        "pmod" | "pod" => Some(Token::Command("pmod")),
        "emptyset" | "varnothing" => Some(Token::Command("emptyset")),
        "bmod" | "mod" => Some(Token::Modulo),
        "cdot" | "times" | "ast" | "star" => sign('*'),
        "div" => sign('/'),
        "pm" => sign('±'),
        "mp" => sign('∓'),
        "cup" => sign('∪'),
        "cap" => sign('∩'),
        "setminus" | "backslash" | "smallsetminus" => sign('∖'),
        "circ" | "degree" | "textdegree" => sign('°'),
        "prime" => sign('\''),
        "lbrace" => sign('⦃'),
        "rbrace" => sign('⦄'),
        "lvert" | "rvert" | "vert" | "mid" | "lVert" | "rVert" | "Vert" => sign('|'),
        "langle" => sign('⟨'),
        "rangle" => sign('⟩'),
        "lbrack" => sign('['),
        "rbrack" => sign(']'),
        "lparen" => sign('('),
        "rparen" => sign(')'),
        "lfloor" => sign('⌊'),
        "rfloor" => sign('⌋'),
        "lceil" => sign('⌈'),
        "rceil" => sign('⌉'),
        "colon" => sign(':'),
        "therefore" => sign('∴'),
        "land" | "wedge" => Some(Token::And),
        "lor" | "vee" => Some(Token::Or),
        "le" | "leq" | "leqslant" => relation(Relation::LessOrEqual),
        "ge" | "geq" | "geqslant" => relation(Relation::GreaterOrEqual),
        "lt" => relation(Relation::Less),
        "gt" => relation(Relation::Greater),
        "ne" | "neq" => relation(Relation::NotEqual),
        "approx" | "simeq" | "thickapprox" => relation(Relation::Approximate),
        "equiv" => relation(Relation::Congruent),
        "in" | "isin" => relation(Relation::Element),
        "infty" => Some(Token::Constant(Constant::Infinity)),
        "pi" => Some(Token::Constant(Constant::Pi)),
        "pounds" => Some(Token::Word("sterling".to_string())),
        "texteuro" | "euro" => Some(Token::Word("euro".to_string())),
        "textdollar" => Some(Token::Word("dollar".to_string())),
        "imath" => Some(Token::Constant(Constant::I)),
        "R" | "Reals" => Some(Token::Name("Reals".to_string())),
        "cdots" | "dots" | "ldots" | "dotsc" | "dotsb" => Some(Token::Name("dots".to_string())),
        _ => None,
    }
}
