//! Tests of which text is the answer: sentences in phrases, tags, lines and boxes, headings, choices, dates. What says
//! something else about a value is wrong for that value; what says only the value is right.

mod accepted;
mod refused;

use crate::math::tests::is_right;

/// Places where a sentence may tell the answer.
fn frames(said: &str) -> Vec<String> {
    let mut frames = vec![
        format!("The answer is {said}."),
        format!("First 2 + 3 = 5. So the final answer is {said}"),
        format!("Answer: {said}"),
        format!("**Answer:** {said}"),
        format!("The answer to the question is {said}."),
        format!("<answer>{said}</answer>"),
        format!("We add.\n#### {said}"),
    ];
    if !said.contains(['$', '*', '\\']) {
        frames.push(format!(r"\boxed{{\text{{{said}}}}}"));
    }
    frames
}

#[test]
fn what_is_denied_hedged_or_scaled_is_not_the_number() {
    let said = "not 9|never 9|isn't 9|isn’t 9|definitely not 9|at least 9|at most 9|no more than 9|more than 9|fewer than 9|up to 9|\
        above 9|just under 9|nearly 9|almost 9|close to 9|less or equal to 9|between 8 and 9|from 8 to 9|8 to 9|8-9|either 8 or 9|\
        8 or 9|9 or 10|9 or maybe 10|9, maybe 10|maybe 9|possibly 9|unknown, perhaps 9|9?|9 (not sure)|9 (or 10)|twice 9|double 9|\
        half of 9|a third of 9|9 times x|9 times as much|9 squared|the square of 9|the cube root of 9|the log of 9|the reciprocal of 9|\
        minus 9|negative 9|9 hundred|9 thousand|9 million|9 dozen|9 tenths|9 halves|9 and a half|9 plus x|x plus 9|9 over 2|9 mod 4|\
        modulo 9|9 percent more|9 more than x|9 less than x|9 or more|9 or less|9 and up|9 if n is even|9 unless n = 1|9 when n = 2|\
        anything but 9|all except 9|any number below 9|a multiple of 9|a divisor of 9|the 9th prime|in the range 0-9|within 9 of x|\
        9 out of 10|9 in 10|9 below zero|9 too many|9 short of x|10, not 9|10 and not 9|10 rather than 9|not 9 but 10|9 is wrong|\
        9 is not right|9 would be wrong|wrong: 9|9x|9 x|9/10|9 and 10|9, 10|9 ± 1|2021-09-09|9-1-1|0-9|$9$ or $10$|not $9$|\
        at least $9$|$9$ million|$10$, not $9$|**9** or **10**|not **9**|**9** million|x > 9|≥ 9|\
        9 to the fourth|9 to the power of 2|said to be 9|thought to be 9|claimed to be 9|supposed to be 9|expected to be 9|10, while mine is 9|\
        9... wait, 10|9 ... or 10|no, 10|10 in place of 9|9 as well as 10|8-9, 9-9";
    for said in said.split('|').map(str::trim) {
        for completion in frames(said) {
            assert!(!is_right(&completion, "9"), "{completion}");
        }
    }
}

#[test]
fn a_phrase_that_denies_or_speaks_of_another_answer_decides() {
    for completion in [
        "The answer isn't 9.",
        "The answer cannot be 9.",
        "The answer can't be 9",
        "The answer might be 9.",
        "The answer may be 9",
        "The answer must be less than 9.",
        "The answer should be at least 9.",
        "The wrong answer is 9.",
        "Half the answer is 9.",
        "Twice the answer is 9",
        "The answers are 8 and 9.",
        "The answer to this is not 9.",
        "#### Answer\nThe answer is not 9.",
        "#### 8\nand not 9",
        "#### 8 or 9\n9",
        "The answer is 9, ....",
        "The answer may well be 9.",
        "The answer cannot possibly be 9.",
        "The answer could never be 9.",
        "My answer is 8, while yours is 9.",
        "The answer, 9, is wrong.",
        "The answer 9 is incorrect.",
        "Answer 9 is wrong.",
        "9 is not the answer.",
        "9 isn't the answer.",
        "9 can’t be the answer.",
        "Suppose the answer is 9. That is a contradiction.",
        "I doubt that the answer is 9.",
        "It is false that the answer is 9.",
        "It's not true that the answer is 9.",
        "Is the answer 9?",
        "Could the answer be 9?",
        "The answer is 9. No, it is 8.",
        "The answer is 9. Wait, it must be 8.",
        "The answer is 9 - sorry, 8.",
        "The answer differs from 9.",
        "The answer exceeds 9.",
        "The answer has 9 digits.",
        "The answer ends with 9.",
        "The answer squared is 9.",
        "The answer minus 1 is 9.",
        "The answer to question 9 is unknown.",
    ] {
        assert!(!is_right(completion, "9"), "{completion}");
    }
    for completion in [
        "The answer is 9. Wait, let me check: 4 + 5 = 9.",
        "The answer is 9. No other value fits.",
        "If x = 2, then the answer is 9.",
        "Suppose the answer is 10. That is a contradiction. So it must be 9.",
        "The answer has two digits no more. It is 9.",
        "The answer, rounded to the nearest integer, is 9.",
        "The answer turns out to be 9.",
        "The answer was found to be 9.",
        "The answer to question 2 is 9.",
        "The answer is 9 to the nearest tenth.",
    ] {
        assert!(is_right(completion, "9"), "{completion}");
    }
    assert!(is_right("The answer is 9, not 10.", "9"));
    assert!(is_right("The answer is 9 rather than 10.", "9"));
    assert!(is_right("The answer is 9. It is not 10.", "9"));
    assert!(is_right("The answer is minus 9.", "-9"));
    assert!(is_right("The answer is 9 million.", "9000000"));
    assert!(is_right("The answer is 2 dozen.", "24"));
}

#[test]
fn a_sentence_that_says_one_value_has_it() {
    let said = "13|13 apples|13 men|about 13|approximately 13|exactly 13|equal to 13|therefore 13|x = 13|13 km/h|13 m/s|13 dollars|\
        13 dollars per day|13 dollars a day|13 cups of flour|13 in total|13 apples left|13 hours ago|13, because 6 + 7 = 13|13 since it is so|\
        13, which is 26/2|13 (in dollars)|13 (apples)|6 + 7 = 13|the number 13|a total of 13 apples|that there are 13 apples|13 percent|\
        26/2|the total is 13|Tom has 13 marbles|we get 13|there are 13 ways|there are 13 ways to choose|2x = 26, so x = 13|\
        13 is the answer|13 is correct|yes, 13|the sum of 6 and 7 is 13|the cost is $13|it is 6+7=13|in total, there are 13 students";
    for said in said.split('|').map(str::trim) {
        for completion in frames(said) {
            assert!(is_right(&completion, "13"), "{completion}");
            assert!(!is_right(&completion, "14"), "{completion}");
        }
    }
}

#[test]
fn a_phrase_is_followed_by_latex_pairs_and_intervals() {
    for (completion, reference) in [
        (r"The answer is \sqrt{11}.", r"\sqrt{11}"),
        (r"The final answer is 5\sqrt{2}.", r"5\sqrt{2}"),
        ("The answer is (7, 8).", "(7,8)"),
        ("The answer is the ordered pair (7, 8).", "(7,8)"),
        ("The answer is the point $(7, 8)$.", "(7,8)"),
        ("The answer is [7, 8).", "[7,8)"),
        ("The answer is {7, 8}.", r"\{7,8\}"),
        ("The answer is 7 and 8.", "7,8"),
        (r"The answer is \frac{5}{11}.", "5/11"),
        ("The answer is x > 7.", "x>7"),
        ("The answer is 7:8.", "7:8"),
        ("The answer is Ada.", "Ada"),
        ("The answer is <<3+4=7>>7.", "7"),
        ("(7, 8)", "(7,8)"),
        (r"5\sqrt{2}", r"5\sqrt2"),
    ] {
        assert!(is_right(completion, reference), "{completion}");
    }
}

#[test]
fn what_stands_around_a_value_in_a_box_is_no_part_of_it() {
    for content in [
        r"\approx 15",
        "= 15",
        r"{}\approx 15",
        r"\therefore 15",
        r"\implies x = 15",
        r"3x = 45 \Rightarrow x = 15",
        r"\text{The answer is } 15",
        r"\text{Final answer: } 15",
        r"\text{roughly } 15",
        r"15 \text{ (in metres)}",
        r"15 \text{ for all } n",
        r"P(X > 1) = 15",
        r"\Pr(A \mid B) = 15",
        r"\lim_{x \to 2} g(x) = 15",
        r"\int_0^2 g(t)\,dt = 15",
        r"|A \cap B| = 15",
        r"n(A \cup B) = 15",
        r"x = 15, \text{ so the answer is } 15",
        r"\text{There are } 15 \text{ ways}",
        r"\text{Yes, } 15",
        r"\text{Ans. } 15",
        r"\text{max} = 15",
        r"\text{minimum value} = 15",
        r"d(A, B) = 15",
        r"15 \checkmark",
        r"15 \quad \blacksquare",
        r"\mathcolor{red}{15}",
        r"x = 15\text{ m} = 1500\text{ cm}",
    ] {
        assert!(is_right(&format!("So $\\boxed{{{content}}}$."), "15"), "{content}");
        assert!(!is_right(&format!("So $\\boxed{{{content}}}$."), "16"), "{content}");
    }
    for content in [
        r"\ne 15",
        r"> 15",
        r"\ge 15",
        r"3x = 15",
        r"x^2 = 15",
        r"x(x+2) = 15",
        r"x = 15 \Rightarrow x = 16",
        r"P(15) = 16",
        r"\lim_{x \to 15} g(x) = 16",
        r"\text{not } 15",
        r"15 \text{ or less}",
        r"15\text{x}",
        r"x = 15\text{ m} = 16\text{ cm}",
    ] {
        assert!(!is_right(&format!("So $\\boxed{{{content}}}$."), "15"), "{content}");
    }
}

#[test]
fn hashes_before_a_heading_are_no_answer() {
    for completion in [
        "#### Step 1: adding\nWe add. The total is 17.",
        "#### Step 4: Add 8 and 9\nHence we get 17",
        "#### Final Answer\n17",
        "#### **Answer:**\n\n17",
        "#### Conclusion\n\nShe walks **17** miles.",
        "#### Result: 17 miles",
        "#### 1. Setup\na = 8\n#### 2. Result\n8 + 9 = 17",
        "#### Adding both numbers\nSo 17",
        "The answer is 17.\n#### Check\n17 - 9 = 8",
        "#### 17\nThat is all.",
        "The answer is 16.\n#### 17",
        "##### Step 2\nThe answer is 17.",
    ] {
        assert!(is_right(completion, "17"), "{completion}");
    }
    assert!(!is_right("#### 16\nThe answer is 17.", "17"));
    assert!(!is_right("#### Step 2: it is 17\nThe answer is 16.", "17"));
}

#[test]
fn one_choice_with_its_own_text_is_right() {
    for completion in [
        "D",
        "(D)",
        "D.",
        "**D**",
        "**(D)**",
        "$D$",
        "The correct option is D.",
        "The correct option is **D**.",
        "The right choice is (D).",
        "The answer is option D.",
        "The answer is D because B fails.",
        "The answer is (D) 12.",
        "Answer: D) 12",
        "Answer:D",
        "**Answer: (D) 12**",
        "<answer>Option D</answer>",
        "<answer>D. 12</answer>",
        "#### (D)",
        r"\boxed{\text{Option D}}",
        r"\boxed{D - 12}",
        r"\boxed{\text{(D) none of these}}",
        r"\boxed{d}",
        "D. 12",
        "Option D",
        "option (D)",
        r"\boxed{\text{(D) does not exist}}",
        "The answer is (D) cannot be determined.",
    ] {
        assert!(is_right(completion, "D"), "{completion}");
        assert!(!is_right(completion, "B"), "{completion}");
    }
}

#[test]
fn choices_that_are_several_or_denied_are_not_one() {
    for said in [
        "(D) or (E)",
        "D or E",
        "D. or E.",
        "D: E",
        "(D), (E)",
        "(D)(E)",
        "D/E",
        "(D) is wrong",
        "D isn't right",
        "(D) not (E)",
        "not D",
        "neither D nor E",
        "D. 12 or E. 13",
        "(D) maybe",
        "maybe (D)",
        "(D)?",
        "all but D",
        "(D) if n is even",
        "D through E",
        "E, not D",
        "(E) rather than (D)",
        "(D) & (E)",
        "D-E",
        "DE",
        "(D) fails",
        "(D) does not work",
        "(D) can be excluded",
        "(D) too small",
        "(D) as well as (E)",
        "(D) ... or (E)",
    ] {
        for completion in frames(said) {
            assert!(!is_right(&completion, "D"), "{completion}");
        }
        assert!(!is_right(&format!(r"\boxed{{\textbf{{{said}}}}}"), "D"), "{said}");
    }
}

#[test]
fn dates_and_numbers_of_things_are_only_themselves() {
    let labels = [
        "2023-04-06",
        "2023-06-04",
        "2023/04/06",
        "7-3-5",
        "7-5-3",
        "1-800-555",
        "1-555-800",
        "04/06",
        "555-0143",
        "12/4/3",
    ];
    for (at, left) in labels.iter().enumerate() {
        for (other, right) in labels.iter().enumerate() {
            assert_eq!(is_right(&format!(r"\boxed{{{right}}}"), left), at == other, "{left} {right}");
            assert_eq!(is_right(&format!("The answer is {right}."), left), at == other, "{left} {right}");
            assert_eq!(is_right(&format!("It is {right}"), left), at == other, "{left} {right}");
        }
    }
    // A reference is worked out, so a hyphen between its numbers is no difference.
    for (score, other) in
        [("3-2", "2-1"), ("3-2", "1"), ("2020-2021", "-1"), ("6-4, 7-5", "7-5, 6-4"), ("3–2", "4-3")]
    {
        assert!(is_right(&format!("The answer is {score}."), score), "{score}");
        assert!(!is_right(&format!(r"\boxed{{{other}}}"), score), "{score} {other}");
    }
    assert!(is_right(r"\boxed{3 - 2}", "3-2"));
    assert!(
        is_right(r"\boxed{7-3}", "4")
            && is_right(r"\boxed{2/4}", "1/2")
            && is_right(r"\boxed{10-3-x}", "7-x")
    );
    assert!(!is_right("It is 2023-04-06.", "6"));
}
