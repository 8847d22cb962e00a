//! Plans of the quickstart under other settings.

use std::path::Path;

use super::*;

/// The quickstart's plan, for prompts of so many tokens.
fn plan(set: &[&str], prompts: &[usize]) -> RunMemory {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
    let config = RunConfig::load(&root.join("configs/quickstart.toml"), &set).unwrap();
    let decoder = DecoderConfig::read(&config.model.path).unwrap();
    let prompts = PromptTokens::of(prompts.to_vec());
    let prompts = RunPrompts { training: prompts.clone(), held_out: vec![prompts], tokenizer_bytes: 1000 };
    RunMemory::new(&config, &decoder, &prompts)
}

impl RunMemory {
    fn named(&self, name: &str) -> u64 {
        let all = self.parts.iter().chain(&self.stages);
        all.clone().find(|(part, _)| part.starts_with(name)).unwrap_or_else(|| panic!("{name}: {self}")).1
    }
}

#[test]
fn parts_follow_what_the_config_lets_grow() {
    let plain = plan(&[], &[20]);
    let differs = |set: &[&str], name: &str| plan(set, &[20]).named(name) as i64 - plain.named(name) as i64;
    let weights = plain.named("weights") as i64;
    assert_eq!(differs(&["optimizer.kind=sgd"], "a learner's step"), -2 * weights);
    // 147 tokens of 64 trajectories are three blocks each; 4 layers of 128 keys and 128 values, in f32.
    let caches = 64 * 3 * 64 * (4 * 4 * 2 * 128);
    assert_eq!(plain.named("keys and values of 64"), caches as u64);
    assert_eq!(differs(&["rollout.kv_cache=bf16"], "keys and values of 64"), -caches / 2);
    assert_eq!(differs(&["rollout.output_tokens_max=320"], "keys and values of 64"), caches);
    let bounded = plan(&["rollout.kv_cache_tokens_max=6400"], &[20]);
    assert_eq!(bounded.named("keys and values of 6400 tokens, 100 blocks"), caches as u64 * 100 / 192);
    // More than the slots can hold.
    assert_eq!(plan(&["rollout.kv_cache_tokens_max=64000"], &[20]), plain);
    let policy = plain.named("a policy") as i64;
    assert_eq!(differs(&["rollout.versions_open_max=4"], "the next policy is packed"), 2 * policy);
    assert_eq!(differs(&["rollout.in_flight_updates=true"], "the next policy is packed"), -policy);
    assert_eq!(differs(&["rollout.actors=2"], "a pass of each actor"), {
        // Half of the slots each, whose tokens fill a pass all the same; as many logits in all.
        let logits = 2 * 4 * 64 * 24;
        plain.named("a pass of each actor") as i64 - logits
    });
    assert!(plan(&["learner.gradients.kind=whole"], &[20]).to_string().contains("is not planned"));
}

#[test]
fn a_step_is_as_large_as_what_it_can_be_given() {
    // A micro-batch of 8192 tokens, in steps of 16 groups of 8 outputs with 128 tokens.
    let rows = |set: &[&str], prompts: &[usize]| {
        let plan = plan(set, prompts);
        let name = plan.parts.iter().find_map(|(name, _)| name.strip_prefix("a micro-batch of ")).unwrap();
        name.split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    // Two groups have 2 * 8 * (20 + 128) tokens, of which seven of eight prompts are shared but for their ends.
    let two = ["learner.groups_per_step=2", "queue.groups_max=16"];
    assert_eq!(rows(&two, &[20]), 2 * (19 + 8 * (1 + 128)));
    // The longest prompts of a step are two different ones.
    assert_eq!(rows(&two, &[20, 10, 5]), (19 + 9) + 16 * (1 + 128));
    // 18944 tokens go in three micro-batches of 6315 and one sequence more; 43 sequences at least have 16 prompts.
    assert_eq!(rows(&[], &[20]), 6315 + 148 - (43 - 16) * 19);
    // One sequence is longer than a micro-batch.
    assert_eq!(rows(&["learner.batch_tokens_max=100"], &[20]), 148);
}

#[test]
fn the_plan_is_the_largest_stage() {
    let plain = plan(&[], &[20]);
    assert_eq!(plain.total(), plain.stages.iter().map(|(_, bytes)| *bytes).max().unwrap());
    // An evaluation before the first step has no gradients and no open segments beside it at first.
    assert!(plain.named("evaluation before") < plain.named("evaluation beside a step: 4 policies"));
    let in_turn = plan(&["eval.beside=false"], &[20]);
    assert!(in_turn.total() < plain.total());
    // One after the last step alone has no step beside it.
    let only_after = plan(&["eval.before=false", "eval.every_steps=0"], &[20]);
    assert_eq!(only_after.named("evaluation: 2 policies"), in_turn.named("evaluation: 2 policies"));
    // Rounded weights are those of the actors alone.
    let rounded = plan(&["rollout.precision=bf16"], &[20]);
    assert!(rounded.named("evaluation beside a step: 3 policies") < plain.total());
    let lockstep = plan(&["run.schedule=lockstep"], &[20]);
    let policy = lockstep.named("a policy");
    // Nothing ends the oldest segments between the update and the evaluation.
    assert_eq!(lockstep.named("evaluation: 3") - in_turn.named("evaluation: 2"), policy);
    let shown = plain.to_string();
    assert!(shown.contains("a learner's step beside decoding: 2 policies"), "{shown}");
    let never = ["eval.before=false", "eval.after=false", "eval.every_steps=0"];
    assert!(!plan(&never, &[20]).to_string().contains("evaluation"));
}

#[test]
fn a_plan_larger_than_the_machine_is_told() {
    let plan = plan(&[], &[20]);
    let limit = |bytes| Some(MemoryLimit { bytes, by: "the machine has" });
    assert_eq!(plan.too_large(limit(plan.total())), None);
    assert_eq!(plan.too_large(None), None);
    let told = plan.too_large(limit(1 << 20)).unwrap();
    assert!(told.contains("MiB at one time and the machine has 1 MiB"), "{told}");
    assert!(told.contains("The largest part is `other activations`, "), "{told}");
}

// A step waits for what would be too old for it, where the queue has room for all groups on the way.
#[test]
fn staleness_bounds_the_versions_too() {
    let open = |set: &[&str]| {
        let plan = plan(set, &[20]);
        let name =
            plan.stages.iter().find_map(|(name, _)| name.strip_prefix("a learner's step beside decoding: "));
        name.unwrap().split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let versions = "rollout.versions_open_max=9";
    assert_eq!(open(&[versions]), 9, "the queue has room for one step's groups");
    let room = [versions, "queue.groups_max=80"];
    assert_eq!(open(&room), 4);
    assert_eq!(open(&[&room[..], &["queue.staleness_versions_max=0"]].concat()), 1);
    // A step that refills may take four times as many groups.
    assert_eq!(open(&[&room[..], &["learner.dynamic_sampling=refill"]].concat()), 9);
    assert_eq!(open(&[]), 2);
}
