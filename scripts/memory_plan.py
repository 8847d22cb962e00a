#!/usr/bin/env python3
"""Compares the memory plan of `longhaul check` with the peak resident set of real training runs.

    python3 scripts/memory_plan.py --model DIR [--longhaul target/release/longhaul] [--steps 12] [--only NAME,NAME]

DIR is a Hugging Face directory; its weights may be random. The prompts are written here: additions after two worked
examples, and long ones of about 60 to 250 tokens. Rewards are such that weights which know nothing get different ones,
so that every step has gradients. Prints a Markdown table; ends with an error if a peak is more than 5 % above its plan,
or more than 15 % below it. Memory does not depend on the speed of the machine, so other work on it does no harm, but
under `async` the peak follows how actors and learner meet. Linux only.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

CONFIG = """
[run]
seed = 1
steps = {steps}
schedule = "async"
[model]
path = {model}
[data]
kind = "jsonl"
path = {data}
[rollout]
output_tokens_max = 16
segments_max = 1
trajectories_open_max = 64
group_size = 8
temperature = 1.0
truncated_reward = "scored"
[queue]
groups_max = 16
staleness_versions_max = 4
[[rewards]]
kind = "words"
words_min = 9
words_max = 9
limit = 60
[learner]
groups_per_step = 8
batch_tokens_max = 4096
[learner.advantage]
kind = "grpo"
[learner.importance]
kind = "sais"
[learner.clip]
low = 0.2
high = 0.2
[learner.mpt]
enabled = false
[learner.gradients]
kind = "streambp"
[learner.kl]
enabled = false
[optimizer]
kind = "adamw"
learning_rate = 1e-5
betas = [0.9, 0.95]
weight_decay = 0.0
warmup_steps = 0
schedule = "constant"
clip_norm = 1.0
[eval]
every_steps = 0
problems = 32
temperature = 0.0
before = false
after = false
data = {held_out}
[checkpoint]
every_steps = 0
keep_last = 1
[metrics]
console = "plain"
"""

# The stop makes lengths differ where the model knows additions.
STOP = 'rollout.stop=["\\n"]'
LONG = ["rollout.output_tokens_max=128", "rollout.segments_max=4", "rollout.trajectories_open_max=32",
        "learner.groups_per_step=4", "queue.groups_max=8"]
ROWS = {
    "async": [],
    "async, outputs end at a line": [STOP],
    "lockstep": ["run.schedule=lockstep"],
    "lockstep, outputs end at a line": ["run.schedule=lockstep", STOP],
    "deterministic": ["run.schedule=deterministic"],
    "deterministic, outputs end at a line": ["run.schedule=deterministic", STOP],
    "async, in-flight updates": ["rollout.in_flight_updates=true", STOP],
    "lockstep, in-flight updates": ["run.schedule=lockstep", "rollout.in_flight_updates=true", STOP],
    "async, staleness 1": ["queue.staleness_versions_max=1", STOP],
    "async, staleness 8": ["queue.staleness_versions_max=8", STOP],
    "async, bf16 actors": ["rollout.precision=bf16", STOP],
    "lockstep, bf16 actors": ["run.schedule=lockstep", "rollout.precision=bf16", STOP],
    "async, bf16 caches": ["rollout.kv_cache=bf16", STOP],
    "async, bf16 actors and caches": ["rollout.precision=bf16", "rollout.kv_cache=bf16", STOP],
    "async, two actors": ["rollout.actors=2", STOP],
    "async, sgd": ["optimizer.kind=sgd", STOP],
    "async, four versions": ["rollout.versions_open_max=4", STOP],
    "async, evaluation": ["eval.before=true", "eval.after=true", STOP],
    "async, long prompts": LONG,
    "lockstep, long prompts": ["run.schedule=lockstep", *LONG],
    "async, long prompts, bf16 caches": ["rollout.kv_cache=bf16", *LONG],
}


def write_prompts(folder):
    drawn = random.Random(1)
    two = lambda: drawn.randint(10, 99)
    add = lambda one, other, answer: f"{one} + {other} = {answer}"
    with open(f"{folder}/short.jsonl", "w") as short, open(f"{folder}/long.jsonl", "w") as long:
        for _ in range(400):
            examples = "\n".join(add(one, other, one + other) for one, other in [(two(), two()), (two(), two())])
            prompt = f"{examples}\n{add(two(), two(), '')}".rstrip()
            short.write(json.dumps({"prompt": prompt}) + "\n")
            story = " ".join(f"On day {day} the shop sold {two()} apples and {two()} pears." for day in
                             range(1, drawn.randint(4, 16)))
            long.write(json.dumps({"prompt": f"{story} How many apples and pears did it sell in all?"}) + "\n")


def planned_mib(command):
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        if line.startswith("# at most at one time"):
            return float(line.split()[-1])
    raise SystemExit("`longhaul check` printed no plan")


def peak_mib(command, log):
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)}\n{open(log).read()[-2000:]}")
    return usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--longhaul", default="target/release/longhaul")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", help="names of rows, separated by semicolons")
    arguments = parser.parse_args()
    names = arguments.only.split(";") if arguments.only else list(ROWS)
    missed = []
    print("| run | planned MiB | peak MiB | plan to peak |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_prompts(folder)
        for name in names:
            data = json.dumps(f"{folder}/{'long' if 'long prompts' in name else 'short'}.jsonl")
            config = f"{folder}/run.toml"
            model = json.dumps(os.path.abspath(arguments.model))
            with open(config, "w") as file:
                file.write(CONFIG.format(steps=arguments.steps, model=model, data=data, held_out=data))
            sets = [part for value in ROWS[name] for part in ("--set", value)]
            planned = planned_mib([arguments.longhaul, "check", config, *sets])
            run = [arguments.longhaul, "train", config, "--run", f"{folder}/run", "--overwrite", *sets]
            peak = peak_mib(run, f"{folder}/log")
            off = planned / peak - 1
            print(f"| {name} | {planned:.0f} | {peak:.0f} | {100 * off:+.1f} % |", flush=True)
            if not -0.05 <= off <= 0.15:
                missed.append(name)
    if missed:
        sys.exit(f"outside of -5 % to +15 %: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
