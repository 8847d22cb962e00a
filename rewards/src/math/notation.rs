//! Tests of notation: spellings of one answer that must be equal, and answers that look like it and must not be. What is
//! equal in a box by its notation is well-formed, too.

mod hostile;

use crate::is_well_formed;
use crate::math::{MathConfig, is_equivalent};

/// A reference, what is equal to it, and what is not.
struct Case {
    reference: &'static str,
    equal: &'static [&'static str],
    different: &'static [&'static str],
}

const fn case(
    reference: &'static str,
    equal: &'static [&'static str],
    different: &'static [&'static str],
) -> Case {
    Case { reference, equal, different }
}

fn check(cases: &[Case]) {
    let config = MathConfig::default();
    for Case { reference, equal, different } in cases {
        for answer in *equal {
            assert!(is_equivalent(reference, answer, &config), "{answer} is {reference}");
            assert!(is_well_formed(answer), "{answer} is well-formed");
        }
        for answer in *different {
            assert!(!is_equivalent(reference, answer, &config), "{answer} is not {reference}");
            assert!(!is_equivalent(answer, reference, &config), "{reference} is not {answer}");
        }
    }
}

#[test]
fn a_comma_between_inequalities_is_and_where_that_leaves_something() {
    check(&[
        case("x < 2, x > 5", &[r"x < 2 \text{ or } x > 5"], &[r"x < 2 \text{ and } x > 5"]),
        case("x > 2, x < 5", &[r"x > 2 \text{ and } x < 5", "2 < x < 5"], &[r"x > 2 \text{ or } x < 5"]),
    ]);
}

#[test]
fn all_real_numbers_are_a_set() {
    check(&[case(
        r"\mathbb{R}",
        &[r"\text{all real numbers}", r"\text{All reals}", r"(-\infty, \infty)"],
        &[r"\text{all positive real numbers}", r"\mathbb{Z}", r"\text{no real numbers}"],
    )]);
}

#[test]
fn mixed_numbers_take_signs_units_and_percent() {
    check(&[
        case(
            r"16\frac{2}{3}\%",
            &[
                r"16\frac23\%",
                r"\frac{50}{3}\%",
                "50/3%",
                r"16.67\%",
                "16 2/3%",
                r"16\frac23",
                r"\frac16",
                "16⅔%",
            ],
            &[r"16\cdot\frac23", r"16\frac13\%", "10.67", "16.6", r"\frac{32}{3}\%"],
        ),
        case(r"87\frac12\%", &[r"87.5\%", r"\frac{7}{8}", "0.875", "87½%"], &[r"87\%", r"43.5\%", "0.87"]),
        case(
            r"\$7\frac14",
            &["7.25", r"\$7.25", "7 1/4", r"\frac{29}{4}", r"7\frac14\text{ dollars}"],
            &[r"\$1.75", "7.14", "-7.25"],
        ),
        case(r"-3\frac15", &["-3.2", r"-\frac{16}{5}", "−3⅕", "-3 1/5"], &["-2.8", "3.2", "-0.6"]),
        case(r"22\frac12^\circ", &["22.5", r"22.5^{\circ}", "22½°", r"\frac{45}{2}"], &["11", "22.2"]),
        case(r"4\frac38\text{ inches}", &["4.375", r"\frac{35}{8}\text{ in}", "4⅜"], &["1.5", "4.38"]),
        case(r"5\frac12", &["5.5", "11/2"], &[r"\frac52", r"5\cdot\frac12", "2.5", r"5^{\frac12}"]),
        case(r"x^2\frac12", &[r"\frac{x^2}{2}"], &["x^{2.5}"]),
    ]);
}

/// Commands that set type, space or colour around an answer.
const STYLES: [&str; 62] = [
    r"\color{teal}@",
    r"{\color{teal} @}",
    r"\color[rgb]{1,0,0}@",
    r"\textcolor{teal}{@}",
    r"\textcolor[RGB]{1,2,3}{@}",
    r"\tiny @",
    r"\scriptsize @",
    r"\footnotesize @",
    r"\small @",
    r"\normalsize{@}",
    r"\large @",
    r"\Large{@}",
    r"{\LARGE @}",
    r"\huge @",
    r"\Huge\mathbf{@}",
    r"\displaystyle @",
    r"\textstyle{@}",
    r"\scriptstyle @",
    r"\underline{@}",
    r"\underline{\underline{@}}",
    r"\boldsymbol{@}",
    r"\bm{@}",
    r"\pmb{@}",
    r"\mathbf{@}",
    r"\mathsf{@}",
    r"\mathtt{@}",
    r"\mathnormal{@}",
    r"{\bf @}",
    r"\boldmath @",
    r"\ensuremath{@}",
    r"@\tag{3}",
    r"@\tag*{(a)}",
    r"@\label{eq:last}",
    r"\hspace{1cm}@",
    r"\hspace*{3mm}@\vspace{2pt}",
    r"\kern 2pt @",
    r"\quad @\qquad",
    r"@\phantom{00}",
    r"\vphantom{\frac12}@",
    r"\colorbox{yellow}{$@$}",
    r"\fcolorbox{red}{white}{$@$}",
    r"\fbox{$@$}",
    r"\mbox{$@$}",
    r"\hbox{$@$}",
    r"\boxed{\boxed{@}}",
    r"\left.@\right.",
    r"\Biggl(@\Biggr)",
    r"\strut @",
    r"\mathopen{}@\mathclose{}",
    r"\mathord{@}",
    r"\smash{@}",
    r"\raisebox{2pt}{$@$}",
    r"\scalebox{2}{$@$}",
    r"\bbox[5px,border:2px solid red]{@}",
    r"\enclose{circle}{@}",
    r"\class{c}{@}",
    r"\cssId{a}{@}",
    r"\style{color:red}{@}",
    r"\href{http://example.org}{@}",
    r"\rule{0pt}{3ex}@",
    r"\overset{!}{=}@",
    r"@ \\[4pt]",
];

#[test]
fn styling_says_nothing() {
    let config = MathConfig::default();
    for style in STYLES {
        for (value, other) in [
            ("37", "38"),
            ("-8", "8"),
            (r"\frac{3}{7}", r"\frac{7}{3}"),
            ("x^2+1", "x^2-1"),
            ("(2,5)", "(5,2)"),
        ] {
            let answer = style.replace('@', value);
            assert!(is_equivalent(value, &answer, &config), "{answer}");
            assert!(is_equivalent(&answer, value, &config), "{answer}");
            assert!(is_well_formed(&answer), "{answer}");
            assert!(!is_equivalent(other, &answer, &config), "{answer} is not {other}");
        }
    }
    for text in [r"\emph{@}", r"\textit{@}", r"\texttt{@}", r"\textsc{@}", r"\textsf{@}", r"\mathit{@}"] {
        assert!(is_equivalent("1,250", &text.replace('@', "1250"), &config), "{text}");
    }
    check(&[
        case(
            "37",
            &[],
            &[
                r"\cancel{37}",
                r"\xcancel{37}",
                r"\phantom{37}",
                r"\tag{37}",
                r"\hspace{37pt}",
                r"3\textcolor{red}{8}",
            ],
        ),
        case("7", &[r"7^{\text{th}}", r"7\textsuperscript{th}", r"7\text{th}"], &["7t"]),
    ]);
}

#[test]
fn units_in_any_spelling() {
    check(&[
        case(
            "72 km/h",
            &[
                r"72\text{ km}\cdot\text{h}^{-1}",
                r"72\,\mathrm{km\,h^{-1}}",
                r"72 km\cdot h^{-1}",
                r"72\ \frac{\text{km}}{\text{h}}",
                r"72\text{ km per hour}",
                r"20\text{ m/s}",
                "72",
            ],
            &[
                r"72\text{ km}",
                r"72\text{ m/s}",
                r"72\text{ km}\cdot\text{h}",
                r"72\,\frac{\text{h}}{\text{km}}",
                "71",
            ],
        ),
        case(
            r"4.5\text{ m/s}^2",
            &[
                r"4.5\,\mathrm{m\,s^{-2}}",
                r"4.5\,\frac{m}{s^2}",
                r"4.5\dfrac{\mathrm{m}}{\mathrm{s}^{2}}",
                "4.5 m/s²",
                r"4.5\text{ m}\cdot\text{s}^{-2}",
                "4.5",
            ],
            &[r"4.5\text{ m/s}", r"4.5\frac{m}{s}", r"4.5\frac{s^2}{m}", "4.5x", r"9\text{ m/s}^2"],
        ),
        case(
            "150 min",
            &[r"150\text{ min}", "2.5 hours", r"150\,\mathrm{min}"],
            &[r"150\text{ s}", "2.5 days"],
        ),
        case(
            r"12\,\Omega",
            &[r"12\text{ ohms}", "12 Ω", r"12\ \mathrm{\Omega}"],
            &[r"12\text{ V}", "13 ohms"],
        ),
        case(
            r"30^\circ\text{C}",
            &[
                "30°C",
                r"30^\circ C",
                "30℃",
                r"30\text{ degrees Celsius}",
                "30 degrees Celsius",
                "30",
                r"30^{\circ}\mathrm{C}",
            ],
            &["30°F", r"30^\circ\text{F}", "86°F", r"303\text{ K}"],
        ),
        case(
            r"24\text{ cm}^2",
            &["24 cm²", r"24 \mathrm{cm^2}", r"0.0024\text{ m}^2"],
            &[r"24\text{ cm}", r"24\text{ cm}^3"],
        ),
        case(r"5\text{ m}", &["5 m", r"5\,m", r"500\text{ cm}"], &["5n", r"5\text{ cm}"]),
        case("5", &[r"5\text{ m}"], &["5m", "5x", r"5\frac{m}{s}"]),
    ]);
}

#[test]
fn times_of_day_know_their_half() {
    check(&[
        case(
            "4:45 PM",
            &[
                "4:45 pm",
                "4:45pm",
                r"4:45\text{ p.m.}",
                r"4:45~\text{PM}",
                "4:45 P.M.",
                "16:45",
                "4:45",
                r"4{:}45\text{ PM}",
            ],
            &["4:45 AM", r"4:45\text{ a.m.}", "4:54 PM", "5:45 PM", "445", "4.75", "4:45:30 PM"],
        ),
        case(r"7\text{ p.m.}", &["7 p.m.", "7:00 PM", "19:00"], &["7:00 AM", r"8\text{ p.m.}"]),
        case("12:10 AM", &["0:10", r"12:10\text{ a.m.}"], &["12:10 PM"]),
    ]);
}

#[test]
fn factorials_and_binomials_of_variables() {
    check(&[
        case(
            r"\binom{n}{3}",
            &[r"\frac{n(n-1)(n-2)}{6}", r"\frac{n!}{3!(n-3)!}", r"\dbinom n3", r"{n \choose 3}"],
            &[
                r"\frac{n(n-1)}{6}",
                r"\binom{n}{4}",
                r"\binom{3}{n}",
                r"\binom{n+1}{3}",
                r"\frac{n(n-1)(n-2)}{3}",
            ],
        ),
        case(
            r"\binom{2n}{n}",
            &[r"\frac{(2n)!}{(n!)^2}", r"\frac{(2n)!}{n!n!}", r"2\binom{2n-1}{n-1}"],
            &[r"\frac{(2n)!}{n!}", r"\binom{2n}{n+1}"],
        ),
        case(r"\binom{n}{k}", &[r"\binom{n}{n-k}", r"\binom{n-1}{k}+\binom{n-1}{k-1}"], &[r"\binom{n}{k+1}"]),
        case("n!", &["n(n-1)!", r"\frac{(n+1)!}{n+1}"], &["(n-1)!", "(n+1)!", "n", "n^n"]),
        case("n+1", &["(n+1)!/n!", r"\frac{(n+1)!}{n!}"], &[r"\frac{n!}{(n-1)!}", "n+2"]),
        case(r"\binom83", &["56", r"\frac{8!}{5!3!}"], &["57", r"\binom84"]),
    ]);
}

#[test]
fn powers_and_decimals_in_plain_text() {
    check(&[
        case("2^n", &["2**n", "2ⁿ"], &["2n", "n^2"]),
        case("x^3+2x", &["x**3+2*x", "x³+2x"], &["3x+2x", "x_3+2x"]),
        case(
            r"3.2\times10^{5}",
            &["3.2 x 10^5", "3.2x10^5", "3.2e5", "3.2*10**5", "3.2×10⁵", "320000"],
            &["3.2 x 10^6", "3.2x", "3.2e4"],
        ),
        case(r"1.6\times10^{-19}", &["1.6 x 10^{-19}", "1.6×10⁻¹⁹", "1.6e-19"], &["1.6e19"]),
        case(
            r"\frac{2}{3}",
            &["0.666...", r"0.666\ldots", r"0.\dot{6}", "0.(6)", r"0.\bar6", "0.666…", "0.6\u{305}"],
            &["0.666", "0.66", r"0.6\overline{7}", "0.(67)", "0.66..."],
        ),
        case(r"\frac{5}{6}", &["0.8(3)", "0.8333...", r"0.8\dot3"], &["0.83", "0.(83)"]),
        case(
            r"\frac{1}{7}",
            &[r"0.\overline{142857}", r"0.\dot{1}4285\dot{7}", "0.142857142857..."],
            &["0.142", r"0.\overline{142}"],
        ),
        case("7.5", &["2.5(3)"], &["2.(3)", r"2.5\overline{3}"]),
        case(r"\pi", &["3.14159..."], &["3.14...", "3.15159..."]),
        case("3 million", &["3000000", r"3\text{ million}", "3e6"], &["3", "3 billion", "3000"]),
        case(r"\$2.5\text{ million}", &["2500000", "2.5 million dollars"], &["2.5", r"\$2.5"]),
    ]);
}

#[test]
fn moduli_bases_and_names() {
    check(&[
        case(
            r"x\equiv 3\pmod{8}",
            &[
                r"3 \pmod 8",
                "3",
                r"x \equiv 11 \pmod 8",
                "x ≡ 3 (mod 8)",
                r"x\equiv -5\mod 8",
                "3 mod 8",
                r"3\bmod 8",
            ],
            &[r"x\equiv 3\pmod 7", r"x\equiv 4\pmod 8", "5", r"x \not\equiv 3 \pmod 8", "11"],
        ),
        case("4", &[r"4\pmod 9", r"13\bmod 9"], &[r"5\pmod 9"]),
        case("12", &[], &[r"5\pmod 7", r"x\equiv 5\pmod 7"]),
        case(
            "1101_2",
            &["13_{10}", "0D_{16}", "1101₂", "(1101)_2", "1101"],
            &["1101_3", "12_{10}", "1100_2"],
        ),
        case("2A_{16}", &["42_{10}", "52_8"], &["2B_{16}", "2A_{12}"]),
        case(
            "x_1=4,x_2=-9",
            &["x=4,-9", r"x=-9\text{ or }x=4", "4, -9"],
            &["x_1=4", "x_1=4,x_2=9", "y=4,-9", "x=4"],
        ),
        case(
            "(x,y)=(5,8)",
            &["(y,x)=(8,5)", "x=5,y=8", "y=8, x=5", "(5,8)"],
            &["(y,x)=(5,8)", "(8,5)", "(x,z)=(5,8)"],
        ),
    ]);
}

#[test]
fn functions_and_sets_in_plain_spelling() {
    check(&[
        case(
            "2",
            &["cbrt(8)", "abs(-2)", "floor(2.7)", "ceil(1.2)", r"\max\{1,2\}", r"\sfrac{4}{2}"],
            &["abs(-3)", "floor(3.1)"],
        ),
        case(
            r"\binom{10}{3}",
            &[r"{}_{10}C_3", r"^{10}C_3", r"10 \choose 3", "120"],
            &[r"{}_{10}C_4", r"9 \choose 3"],
        ),
        case(r"1\pm\sqrt2", &["1 +/- sqrt(2)", "1±√2"], &["1+√2"]),
        case("x>3", &[r"\{x: x>3\}", r"\{x\in\mathbb{R}: x>3\}", r"(3,\infty)"], &[r"\{x: x<3\}"]),
        case(
            r"5\text{ ft }6\text{ in}",
            &["5.5 ft", "66 inches"],
            &["5 ft", "11 ft", r"6\text{ ft }5\text{ in}"],
        ),
        case(
            "42",
            &[r"\underbrace{42}_{\text{sum}}", r"\begin{aligned}42\end{aligned}", "٤٢"],
            &[r"\underbrace{43}_{42}"],
        ),
    ]);
}

#[test]
fn names_with_marks_are_names() {
    check(&[
        case("A_{12}", &["A_{12}"], &["10", "A_{11}", "A"]),
        case("x", &[r"\vec{x}", r"\bar{x}"], &[r"\dot{x}", r"\ddot{x}", r"\cancel{x}", r"\overset{2}{x}"]),
        case(r"\overset{2}{x}", &[], &[r"\overset{3}{x}", r"\underset{2}{x}"]),
        case("AB", &[r"\overline{AB}", r"\overset{\frown}{AB}"], &["BC"]),
        case(r"5\text{ N}", &["5N", "5"], &["5n", "5M"]),
        case("e", &["2.718281828..."], &["2.71828185..."]),
    ]);
}

#[test]
fn systems_pieces_and_conclusions() {
    check(&[
        case(
            "(3,-7)",
            &[
                r"\begin{cases}x=3\\y=-7\end{cases}",
                r"\left\{\begin{array}{l}x=3\\y=-7\end{array}\right.",
                r"\begin{aligned}x&=3\\y&=-7\end{aligned}",
                r"x=3\text{ and }y=-7",
            ],
            &[r"\begin{cases}x=-7\\y=3\end{cases}", r"x=3\text{ or }y=-7", r"\begin{cases}x=3\end{cases}"],
        ),
        case(
            r"\begin{cases}x+1 & x>0\\-x & x\le 0\end{cases}",
            &[r"\begin{cases}-x, & \text{if } x\leq0\\1+x, & \text{if } x>0\end{cases}"],
            &[
                r"\begin{cases}x+1 & x\ge0\\-x & x<0\end{cases}",
                r"\begin{cases}-x & x>0\\x+1 & x\le 0\end{cases}",
                "x+1",
            ],
        ),
        case(
            "31",
            &[
                r"\approx 31",
                r"\therefore 31",
                r"\implies x=31",
                r"x+1=32\Rightarrow x=31",
                r"\lim_{x\to2}f(x)=31",
                r"\int_0^2 f(x)\,dx=31",
                r"|A\cap B|=31",
                r"P(X\le 4)=31",
                r"\gcd(a,b)=31",
            ],
            &[r"\ne 31", r"\ge31", r"x=31\Rightarrow x=32", r"\not=31", r"\lim_{x\to31}f(x)=3"],
        ),
        case(
            r"\sum_{i=1}^n i^2",
            &[r"\sum\limits_{i=1}^{n} i^{2}"],
            &[r"\sum_{i=1}^n i^3", r"\sum_{i=0}^n i^2", r"\prod_{i=1}^n i^2"],
        ),
        case(r"A\subset B", &[r"A \subset B"], &[r"B\subset A", r"A\subseteq B", r"A\supset B"]),
        case(r"x\ge3\text{ and }y\ge4", &[r"y\ge4\land x\ge3"], &[r"x\ge3\text{ or }y\ge4"]),
        case("1<x<9", &["x>1 and x<9", "x>1, x<9", "(1,9)"], &["x>1 or x<9", "x<1 and x>9"]),
    ]);
}

#[test]
fn unicode_is_read_as_latex() {
    check(&[
        case(r"\frac58", &["⅝", "⁵⁄₈", "5⁄8", "５／８", "0.625"], &["⅜", "58"]),
        case(r"\sqrt[3]{5}", &["∛5", "∛(5)"], &["√5", "∜5", "3√5"]),
        case(r"6\sqrt{3}", &["6√3", "6∙√3", "6×√3", "６√３", "√108"], &["√63", "6√2"]),
        case("-5", &["−5", "–5", "－5", "\u{feff}-5", "-\u{2060}5", "\u{200b}-5"], &["5", "₋5"]),
        case("(3,8)", &["（3，8）", "(3、8)", "（３、８）"], &["（8，3）", "［3，8］"]),
        case("x^{12}", &["x¹²"], &["x₁₂", "x¹", "12x"]),
        case("a_1", &["a₁"], &["a¹", "a"]),
        case(r"\frac{\pi}{3}", &["π/3", "π∕3", "π÷3"], &["π/2", "3π"]),
        case("[2,\\infty)", &["x≥2", "x⩾2", "[2,∞)"], &["x>2", "x≤2"]),
        case(r"(-\infty,1)\cup(2,\infty)", &["(−∞,1)∪(2,∞)"], &["(−∞,1)∩(2,∞)"]),
        case("x+y", &["𝑥+𝑦", "ｘ＋ｙ"], &["x−y"]),
        case("1000", &["1\u{202f}000", "1\u{a0}000"], &["1"]),
    ]);
}
