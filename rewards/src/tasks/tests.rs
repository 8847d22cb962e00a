//! Problems, their splits and their verifiers.

use std::collections::BTreeSet;

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::stopwatch::seconds;

fn task(name: TaskName, difficulty_min: usize, difficulty_max: usize) -> Task {
    Task::new(TaskConfig::new(name, difficulty_min..=difficulty_max)).unwrap()
}

/// A task at difficulties that a test can afford.
fn small(name: TaskName) -> Task {
    task(name, *name.difficulties().start(), 6)
}

#[test]
fn a_machine_problem_and_its_three_demonstrations_by_hand() {
    let task = task(TaskName::Machine, 1, 4);
    let problem = Problem { prompt: "4+3*2-5=".into(), answer: "9".into(), difficulty: 3, key: 0 };
    assert_eq!(task.demonstration_in(&problem, Style::Careful), "4+3=7;7*2=4;4-5=9;#9");
    let verbose = "4+3=7,4+3=7;7*2=4,7*2=4;4-5=9,4-5=9;#9";
    assert_eq!(task.demonstration_in(&problem, Style::Verbose), verbose);
    for key in 0..50 {
        let hasty = task.demonstration_in(&Problem { key, ..problem.clone() }, Style::Hasty);
        assert!(hasty == "4+3=7;#7" || (hasty.len() == 2 && hasty.starts_with('#')), "{hasty}");
    }
}

/// Invariant: training and held-out prompts are disjoint. All prompts of the least difficulty are drawn, and
/// the test fails when either split runs dry there or when one text is in both.
#[test]
fn the_splits_share_no_prompt_and_neither_is_empty() {
    for name in TaskName::ALL {
        let least = *name.difficulties().start();
        let task = task(name, least, least);
        let texts = |split, seed| {
            (0..3000).map(|index| task.problem(split, seed, index).prompt).collect::<BTreeSet<_>>()
        };
        let (train, held_out) = (texts(Split::Train, 1), texts(Split::HeldOut, 2));
        assert!(train.len() > 150 && held_out.len() > 40, "{name:?}: {} {}", train.len(), held_out.len());
        assert_eq!(train.intersection(&held_out).count(), 0, "{name:?}");
    }
}

#[test]
fn a_problem_depends_on_split_seed_and_index_only() {
    for name in TaskName::ALL {
        let task = small(name);
        let problem = task.problem(Split::Train, 7, 3);
        task.problem(Split::Train, 7, 2);
        assert_eq!(task.problem(Split::Train, 7, 3), problem);
        let others = [
            task.problem(Split::Train, 8, 3),
            task.problem(Split::Train, 7, 4),
            task.problem(Split::HeldOut, 7, 3),
        ];
        assert!(others.iter().all(|other| other.key != problem.key));
    }
}

#[test]
fn every_difficulty_between_the_two_is_drawn_about_equally_often() {
    let task = task(TaskName::Machine, 3, 6);
    let mut counts = [0usize; 4];
    for index in 0..2000 {
        let problem = task.problem(Split::HeldOut, 5, index);
        assert_eq!(problem.prompt.len(), 2 + 2 * problem.difficulty);
        counts[problem.difficulty - 3] += 1;
    }
    assert!(counts.iter().all(|&count| (430..570).contains(&count)), "{counts:?}");
}

#[test]
fn hasty_demonstrations_of_long_problems_are_mostly_wrong_and_shorter() {
    for name in TaskName::ALL {
        let task = task(name, 5, 7);
        let right = (0..400)
            .filter(|&index| {
                let problem = task.problem(Split::Train, 11, index);
                let hasty = task.demonstration_in(&problem, Style::Hasty);
                assert!(hasty.len() < task.demonstration_in(&problem, Style::Careful).len());
                task.is_right(&problem.prompt, &hasty).unwrap()
            })
            .count();
        assert!((1..150).contains(&right), "{name:?}: {right} of 400");
    }
}

#[test]
fn the_mixture_draws_the_styles_by_their_weights() {
    let task = task(TaskName::Machine, 6, 6);
    let config = DemonstrationConfig { hasty: 2.0, hasty_easiest: None, careful: 1.0, verbose: 1.0 };
    let mut counts = [0usize; 3];
    for index in 0..2000 {
        let length = task.demonstration(&task.problem(Split::Train, 1, index), &config).len();
        counts[if length < 38 { 0 } else { usize::from(length > 38) + 1 }] += 1;
    }
    assert_eq!(task.longest_working(Style::Careful, 6), 38);
    assert!((930..1070).contains(&counts[0]) && (430..570).contains(&counts[1]), "{counts:?}");
}

#[test]
fn the_alphabet_has_every_character_once_and_is_plain_ascii() {
    let characters: BTreeSet<char> = Task::alphabet().chars().collect();
    assert_eq!(characters.len(), Task::alphabet().len());
    assert!(characters.iter().all(char::is_ascii_graphic));
}

#[test]
fn only_the_end_of_a_completion_is_judged() {
    let task = task(TaskName::Machine, 1, 4);
    let is_right = |completion: &str| task.is_right("4+3*2-5=", completion).unwrap();
    for right in ["#9", "nonsense#1#9", "4+3=7;#9\n", "####9"] {
        assert!(is_right(right), "{right}");
    }
    for wrong in ["", "#", "9", "#9;", "#9#", "# 9", "#09", "#9 .", "#9\0", "4+3=7;7*2=4;4-5=9;"] {
        assert!(!is_right(wrong), "{wrong}");
    }
    assert_eq!(task.answer_line("x#7"), Some("7"));
    assert_eq!(task.answer_line("#77"), None);
}

#[test]
fn a_prompt_of_another_task_is_an_error_that_names_the_task() {
    for name in TaskName::ALL {
        for other in TaskName::ALL.into_iter().filter(|&other| other != name) {
            let prompt = small(other).problem(Split::Train, 1, 1).prompt;
            let message = small(name).is_right(&prompt, "#1").unwrap_err().to_string();
            assert_eq!(message, format!("the prompt is not a problem of the task `{}`", name.as_str()));
        }
    }
}

#[test]
fn bad_configs_name_their_key() {
    let message = |difficulty_min, difficulty_max| {
        let config = TaskConfig::new(TaskName::Countdown, difficulty_min..=difficulty_max);
        Task::new(config).unwrap_err().to_string()
    };
    let least = "difficulty_min: the task `countdown` has difficulties from 3 to 8, not 2";
    assert_eq!(message(2, 4), least);
    assert_eq!(message(3, 9), least.replace("min", "max").replace("not 2", "not 9"));
    assert_eq!(message(5, 4), "difficulty_min: 5 is above difficulty_max = 4");
    let unknown = r#"{"name": "machine", "difficulty_min": 1, "difficulty_max": 2, "steps": 3}"#;
    assert!(serde_json::from_str::<TaskConfig>(unknown).unwrap_err().to_string().contains("`steps`"));
    let weights =
        |hasty, careful| DemonstrationConfig { hasty_easiest: None, hasty, careful, verbose: 0.0 }.check();
    assert!(weights(0.3, 0.7).is_ok());
    assert!(weights(-0.3, 0.7).unwrap_err().to_string().starts_with("hasty: "));
    assert!(weights(0.3, f64::NAN).unwrap_err().to_string().starts_with("careful: "));
    assert!(weights(0.0, 0.0).is_err());
}

#[test]
fn megabytes_of_marks_are_judged_in_linear_time() {
    for name in TaskName::ALL {
        let (task, problem) = (small(name), small(name).problem(Split::Train, 1, 1));
        for piece in ["#", "(", "1", " ", "1+"] {
            let hostile = "#".to_string() + &piece.repeat(2_000_000 / piece.len());
            let taken = seconds(|| assert!(!task.is_right(&problem.prompt, &hostile).unwrap()));
            assert!(taken < 1.0, "{name:?} {piece}: {taken} s");
        }
    }
}

proptest! {
    #[test]
    fn careful_and_verbose_demonstrations_are_right(seed in any::<u64>(), index in any::<u64>()) {
        for name in TaskName::ALL {
            let task = small(name);
            for split in [Split::Train, Split::HeldOut] {
                let problem = task.problem(split, seed, index);
                prop_assert_eq!(split_of(&problem.prompt), split);
                let careful = task.demonstration_in(&problem, Style::Careful);
                let verbose = task.demonstration_in(&problem, Style::Verbose);
                for (style, text) in [(Style::Careful, &careful), (Style::Verbose, &verbose)] {
                    prop_assert!(task.is_right(&problem.prompt, text).unwrap());
                    prop_assert_eq!(task.answer_line(text), Some(problem.answer.as_str()));
                    prop_assert!(text.len() <= task.longest_working(style, problem.difficulty));
                }
                prop_assert!(verbose.len() > careful.len() * 3 / 2);
                let hasty = task.demonstration_in(&problem, Style::Hasty);
                prop_assert!(hasty.len() <= task.longest_working(Style::Hasty, problem.difficulty));
                prop_assert!(task.answer_line(&hasty).is_some());
                let written = problem.prompt + &careful + &verbose + &hasty;
                prop_assert!(written.chars().all(|character| ALPHABET.contains(character)));
            }
        }
    }

    #[test]
    fn an_altered_answer_is_wrong(
        seed in any::<u64>(),
        place in any::<proptest::sample::Index>(),
        digit in 0u8..10,
    ) {
        for name in TaskName::ALL {
            let task = small(name);
            let problem = task.problem(Split::Train, seed, 0);
            let mut answer = problem.answer.clone().into_bytes();
            let digits: Vec<usize> = (0..answer.len()).filter(|&at| answer[at].is_ascii_digit()).collect();
            let at = digits[place.index(digits.len())];
            if answer[at] != b'0' + digit {
                answer[at] = b'0' + digit;
                let altered = format!("1;#{}", String::from_utf8(answer).unwrap());
                prop_assert!(!task.is_right(&problem.prompt, &altered).unwrap(), "{altered}");
            }
            for altered in [format!("#{}0", problem.answer), format!("#{}#", problem.answer)] {
                prop_assert!(!task.is_right(&problem.prompt, &altered).unwrap(), "{altered}");
            }
        }
    }

    #[test]
    fn no_text_makes_a_task_panic(prompt in any::<String>(), answer in any::<String>(), ascii in "[0-9+*/()=:;,>#-]{0,40}") {
        for name in TaskName::ALL {
            let task = small(name);
            let own = task.problem(Split::Train, 1, 1).prompt;
            for completion in [answer.clone(), format!("#{answer}"), format!("#{ascii}")] {
                prop_assert!(task.is_right(&own, &completion).is_ok());
                for foreign in [prompt.as_str(), ascii.as_str()] {
                    let _ = task.is_right(foreign, &completion);
                }
            }
        }
    }
}

#[test]
fn an_addition_in_a_text_is_asked_judged_and_shown() {
    let template = Some("12 + 34 = 46\n25 + 47 = 72\n{left} + {right} =".to_string());
    let config = TaskConfig { template, ..TaskConfig::new(TaskName::Addition, 2..=2) };
    let own = task(TaskName::Addition, 2, 2);
    let task = Task::new(config.clone()).unwrap();
    for index in 0..50 {
        let (asked, plain) = (task.problem(Split::HeldOut, 3, index), own.problem(Split::HeldOut, 3, index));
        let (left, right) = plain.prompt.trim_end_matches(':').split_once('+').unwrap();
        assert_eq!(
            asked.prompt,
            format!("12 + 34 = 46\n25 + 47 = 72\n{left} + {right} ="),
            "the same problems"
        );
        assert_eq!(asked.answer, plain.answer);
        let sum = &asked.answer;
        for (completion, right) in [
            (format!(" {sum}"), true),
            (format!(" {sum}\n12 + 1 = 13\n"), true),
            (sum.clone(), true),
            (format!(" {sum}0"), false),
            (format!(" {sum}."), false),
            (format!("\n{sum}"), false),
            (format!("#{sum}"), false),
            (String::new(), false),
        ] {
            assert_eq!(task.is_right(&asked.prompt, &completion).unwrap(), right, "{completion:?}");
        }
        for style in [Style::Careful, Style::Hasty, Style::Verbose] {
            let shown = task.demonstration_in(&asked, style);
            assert!(shown.len() <= task.longest_working(style, 2), "{shown:?}");
        }
        assert_eq!(task.demonstration_in(&asked, Style::Careful), format!(" {sum}"));
    }
    assert!(task.is_right("48+97:", "145").is_err(), "that is no prompt of this template");
    let refused = |config: TaskConfig| Task::new(config).unwrap_err().to_string();
    let machine = TaskConfig { name: TaskName::Machine, ..config.clone() };
    assert!(refused(machine).starts_with("template: is for the task `addition`"), "by its key");
    assert!(
        refused(TaskConfig { template: Some("{left}".to_string()), ..config }).starts_with("template: must")
    );
}
