#!/usr/bin/env python3
"""Compares the memory plan of `longhaul check` with the peak resident set of real training runs.

    python3 scripts/memory_plan.py --model DIR [--longhaul target/release/longhaul] [--steps 12] [--only "NAME;NAME"]
                                   [--gsm8k train.jsonl] [--results results]

DIR is a Hugging Face directory of a chat model. The prompts are written here: additions after two worked examples, and
long ones of about 60 to 250 tokens; with `--gsm8k` also questions of that set as conversations. Rewards are such that
weights which know nothing get different ones, so that every step has gradients. `--results` writes the raw rows to a
folder of their own, of which `scripts/results_tables.py` makes the table. Ends with an error if a peak is more than 5 %
above its plan, or more than 15 % below it. Memory does not depend on the speed of the machine, so other work on it does
no harm, but under `async` the peak follows how actors and learner meet. Random weights take numpy. Linux only.
"""

import argparse
import datetime
import json
import os
import platform
import random
import shlex
import shutil
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
kind = "file"
path = {data}
[rollout]
output_tokens_max = 16
segments_max = 1
trajectories_open_max = 6
group_size = 2
temperature = 1.0
truncated_reward = "scored"
[queue]
groups_max = 4
staleness_versions_max = 4
[[rewards]]
kind = "words"
words_min = 9
words_max = 9
limit = 60
[learner]
groups_per_step = 2
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

# Lengths differ, so that segments of older versions are open, and nearly reach what is planned for.
STOP = 'rollout.stop=["\\n"]'
LENGTHS = [STOP, "rollout.min_tokens=12"]
LOCKSTEP = "run.schedule=lockstep"
DETERMINISTIC = "run.schedule=deterministic"
IN_FLIGHT = "rollout.in_flight_updates=true"
BF16 = ["rollout.precision=bf16", "rollout.kv_cache=bf16"]
LONG = ["rollout.output_tokens_max=64", "rollout.segments_max=2", STOP, "rollout.min_tokens=48"]
ADAPTERS = ["learner.lora.rank=16", "learner.lora.alpha=32.0", "learner.lora.target_modules=all-linear"]
KEPT_NOTHING = ["learner.gradients.attention_kept_mib=0", "learner.gradients.activations_kept_mib=0"]
MIDDLE = ["rollout.group_size=4", "rollout.trajectories_open_max=24", "learner.groups_per_step=4", "queue.groups_max=8"]
LARGE = ["rollout.group_size=8", "rollout.trajectories_open_max=64", "learner.groups_per_step=8", "queue.groups_max=16"]
# Names of rows with `long prompts`, `gsm8k` or `random weights` in them choose the prompts and the model.
ROWS = {
    "async": LENGTHS,
    "async, outputs as short as they come": [STOP],
    "async, random weights": [],
    "async, in-flight updates": [IN_FLIGHT, *LENGTHS],
    "async, bf16 actors": ["rollout.precision=bf16", *LENGTHS],
    "async, bf16 caches": ["rollout.kv_cache=bf16", *LENGTHS],
    "async, bf16 actors and caches": [*BF16, *LENGTHS],
    "async, bf16 actors and caches, in-flight updates": [*BF16, IN_FLIGHT, *LENGTHS],
    "async, sgd": ["optimizer.kind=sgd", *LENGTHS],
    "async, two actors": ["rollout.actors=2", *LENGTHS],
    "async, staleness 1": ["queue.staleness_versions_max=1", *LENGTHS],
    "async, staleness 8": ["queue.staleness_versions_max=8", *LENGTHS],
    "async, four versions": ["rollout.versions_open_max=4", *LENGTHS],
    "async, evaluation": ["eval.before=true", "eval.after=true", *LENGTHS],
    "async, long prompts": LONG,
    "async, long prompts, bf16 actors and caches": [*BF16, *LONG],
    "async, 4 groups of 4": [*MIDDLE, *LENGTHS],
    "async, 8 groups of 8": [*LARGE, *LENGTHS],
    "async, gsm8k": LONG,
    "async, adapters": [*ADAPTERS, *LENGTHS],
    "lockstep": [LOCKSTEP, *LENGTHS],
    "lockstep, adapters": [LOCKSTEP, *ADAPTERS, *LENGTHS],
    "lockstep, random weights": [LOCKSTEP],
    "lockstep, in-flight updates": [LOCKSTEP, IN_FLIGHT, *LENGTHS],
    "lockstep, bf16 actors and caches": [LOCKSTEP, *BF16, *LENGTHS],
    "lockstep, sgd": [LOCKSTEP, "optimizer.kind=sgd", *LENGTHS],
    "lockstep, two actors": [LOCKSTEP, "rollout.actors=2", *LENGTHS],
    "lockstep, layer inputs in bf16": [LOCKSTEP, "learner.gradients.layer_inputs=bf16", *LENGTHS],
    "lockstep, layer inputs in a file, nothing kept": [
        LOCKSTEP, "learner.gradients.layer_inputs=file", *KEPT_NOTHING, *LENGTHS],
    "lockstep, 4 groups of 4": [LOCKSTEP, *MIDDLE, *LENGTHS],
    "lockstep, long prompts": [LOCKSTEP, *LONG],
    "lockstep, gsm8k": [LOCKSTEP, *LONG],
    "deterministic": [DETERMINISTIC, *LENGTHS],
    "deterministic, random weights": [DETERMINISTIC],
    "deterministic, in-flight updates": [DETERMINISTIC, IN_FLIGHT, *LENGTHS],
    "deterministic, bf16 actors and caches": [DETERMINISTIC, *BF16, *LENGTHS],
    "deterministic, 4 groups of 4": [DETERMINISTIC, *MIDDLE, *LENGTHS],
    "deterministic, 8 groups of 8": [DETERMINISTIC, *LARGE, *LENGTHS],
    "deterministic, gsm8k": [DETERMINISTIC, *LONG],
}

# Planned over measured, less 1: how far a plan may be below and above the peak.
BAR = (-0.05, 0.15)


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


def write_conversations(folder, gsm8k):
    """Questions of GSM8K as a chat model gets them, the long ones: about 200 tokens."""
    order = "Solve the problem step by step. Write the final answer as \\boxed{number}. "
    with open(gsm8k) as source, open(f"{folder}/gsm8k.jsonl", "w") as output:
        questions = [json.loads(line)["question"] for line in source]
        for question in sorted(questions, key=len)[-1000:]:
            messages = [{"role": "user", "content": order + question}]
            output.write(json.dumps({"messages": messages}) + "\n")


def write_random_model(model, folder):
    """The same shapes with normal numbers of deviation 0.02, norms 1."""
    import numpy

    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    generator = numpy.random.default_rng(1)
    with open(f"{model}/model.safetensors", "rb") as source, open(f"{folder}/model.safetensors", "wb") as output:
        length = source.read(8)
        header = source.read(int.from_bytes(length, "little"))
        output.write(length + header)
        tensors = [(name, info) for name, info in json.loads(header).items() if name != "__metadata__"]
        for name, info in sorted(tensors, key=lambda tensor: tensor[1]["data_offsets"][0]):
            if info["dtype"] != "F32":
                raise SystemExit(f"{name} is {info['dtype']}: random weights take a model in F32")
            count = (info["data_offsets"][1] - info["data_offsets"][0]) // 4
            numbers = 0.02 * generator.standard_normal(count, dtype=numpy.float32)
            output.write((numpy.ones_like(numbers) if "norm" in name else numbers).tobytes())


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


def line(row):
    planned, peak = row["planned_mib"], row["peak_mib"]
    return f"{row['run']}: planned {planned:.0f} MiB, peak {peak:.0f} MiB, {100 * (planned / peak - 1):+.1f} %"


def result_folder(results):
    """The folder for the rows of this commit, which must be what the sources are."""
    git = lambda *words: subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()
    if git("status", "--porcelain", "--untracked-files=no"):
        raise SystemExit("the sources are not those of a commit: commit them before --results")
    date = datetime.date.today().strftime("%Y%m%d")
    folder = f"{results}/{date}-memory-plan-{git('rev-parse', '--short', 'HEAD')}"
    os.makedirs(folder, exist_ok=True)
    return folder


def machine(threads):
    read = lambda path: open(path).read().splitlines()
    model = next((line.split(":")[1].strip() for line in read("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next(int(line.split()[1]) // 1024 for line in read("/proc/meminfo") if line.startswith("MemTotal"))
    return {"processor": model, "cores": threads, "gpu": None, "memory_mib": memory, "system": platform.platform(),
            "statistic": "one run each"}


def measure(arguments, names, folder, write_row):
    write_prompts(folder)
    if arguments.gsm8k:
        write_conversations(folder, arguments.gsm8k)
    for name in names:
        data = "long" if "long prompts" in name else "gsm8k" if "gsm8k" in name else "short"
        data = json.dumps(f"{folder}/{data}.jsonl")
        model = os.path.abspath(arguments.model)
        if "random weights" in name:
            model = f"{folder}/random"
            if not os.path.exists(model):
                write_random_model(arguments.model, model)
        config = f"{folder}/run.toml"
        with open(config, "w") as file:
            text = CONFIG.format(steps=arguments.steps, model=json.dumps(model), data=data, held_out=data)
            file.write(text)
        sets = [part for value in ROWS[name] for part in ("--set", value)]
        planned = planned_mib([arguments.longhaul, "check", config, *sets])
        run = [arguments.longhaul, "train", config, "--run", f"{folder}/run", "--overwrite", *sets]
        peak = peak_mib(run, f"{folder}/log")
        write_row({"run": name, "set": ROWS[name], "steps": arguments.steps, "planned_mib": planned,
                   "peak_mib": round(peak, 1)})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--longhaul", default="target/release/longhaul")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", help="names of rows, separated by semicolons")
    parser.add_argument("--gsm8k", help="questions for the rows of that name, which are left out without it")
    parser.add_argument("--results", help="where the folder of the raw rows is made")
    arguments = parser.parse_args()
    names = arguments.only.split(";") if arguments.only else list(ROWS)
    names = [name for name in names if arguments.gsm8k or "gsm8k" not in name]
    written = None
    if arguments.results:
        written = result_folder(arguments.results)
        with open(f"{written}/command.sh", "w") as file:
            words = ["python3", "scripts/memory_plan.py", "--model", "DIR", "--steps", str(arguments.steps)]
            words += ["--gsm8k", "train.jsonl"] if arguments.gsm8k else []
            file.write("# DIR: SmolLM2-135M-Instruct in f32; train.jsonl: of GSM8K.\n")
            file.write(f"{shlex.join([*words, '--results', arguments.results])}\n")
        with open(f"{written}/machine.json", "w") as file:
            json.dump(machine(os.cpu_count()), file, indent=2)
            file.write("\n")
    rows = []

    def write_row(row):
        rows.append(row)
        print(line(row), flush=True)
        if written:
            with open(f"{written}/rows.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, names, folder, write_row)
    off = {row["run"]: row["planned_mib"] / row["peak_mib"] - 1 for row in rows}
    missed = [name for name, off in off.items() if not BAR[0] <= off <= BAR[1]]
    if missed:
        sys.exit(f"outside of -5 % to +15 %: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
