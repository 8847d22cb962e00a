//! What each command of LaTeX is to the reader.

use super::Token;
use super::words::function;
use crate::latex::expression::{Constant, Relation};
use crate::latex::unicode::GREEK;

/// What a command does.
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
    mathord mathbin mathrel mathopen mathclose mathpunct mathinner mathop underline uline uuline smash mathclap mathllap mathrlap \
    rlap llap clap par newline linebreak nolinebreak hline space ";

/// Commands whose argument is text, or letters in another type.
const TEXTS: &str = " text textbf textit textrm textnormal textsf texttt textsc textsl textup textmd textsuperscript textsubscript emph mbox hbox vbox fbox \
    framebox makebox mathrm mathit mathbf mathsf mathtt mathnormal mathcal mathbb mathfrak mathscr operatorname bf rm boldsymbol \
    bm pmb ";

/// Commands with an option that is not shown and an argument that is.
const DROPPED_NONE: &str = " bbox hyperref fancybox ";

/// Commands with one argument that is not shown.
const DROPPED_ONE: &str = " color textcolor colorbox tag label phantom hphantom vphantom class cssId style htmlClass htmlId \
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

fn has(names: &str, name: &str) -> bool {
    names.split_ascii_whitespace().any(|known| known == name)
}

fn known(names: &[&'static str], name: &str) -> Option<&'static str> {
    names.iter().copied().find(|known| *known == name)
}

/// What a relation is called with `\not` before it.
pub(super) fn negated(name: &str) -> Option<&'static str> {
    RELATIONS.iter().copied().find(|known| known.strip_prefix("not ") == Some(name))
}

/// What a command does, or `None` for one that is not known.
pub(super) fn meaning(name: &str) -> Option<Meaning> {
    // The common ones first; the tables behind are only searched for the others.
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
        _ if has(DELIMITERS, name) => Meaning::Delimiter,
        _ if has(TEXTS, name) => Meaning::Text,
        _ if has(SILENT, name) => Meaning::Nothing,
        _ if has(DROPPED_NONE, name) => Meaning::Dropped(0),
        _ if has(DROPPED_ONE, name) => Meaning::Dropped(1),
        _ if has(DROPPED_TWO, name) => Meaning::Dropped(2),
        _ if has(LENGTHS, name) => Meaning::Length,
        _ => {
            let token = known(ACCENTS, name)
                .map(Token::Accent)
                .or_else(|| known(OPERATORS, name).map(Token::Operator))
                .or_else(|| known(BINARIES, name).map(Token::Binary))
                .or_else(|| known(RELATIONS, name).map(|name| Token::Relation(Relation::Other(name))))
                .or_else(|| has(VALUES, name).then(|| Token::Name(name.to_string())))?;
            Meaning::Token(token)
        }
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
        "frac" | "dfrac" | "tfrac" | "cfrac" => Some(Token::Command("frac")),
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
        _ if GREEK.iter().any(|known| known.1 == name) => Some(Token::Name(name.to_string())),
        _ => None,
    }
}
