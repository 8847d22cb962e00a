#!/usr/bin/env python3
"""Kills a run again and again, resumes it each time, and compares it with one that nothing stopped.

    cargo build --release
    python3 scripts/kill_and_resume.py                        # 50 kills of a deterministic quickstart
    python3 scripts/kill_and_resume.py --schedule async --kills 25
    python3 scripts/kill_and_resume.py --set run.steps=8 --kills 10 --folder /tmp/killed

Needs nothing but Python. Kills are `kill -9`, most of them after a random time, every fourth while a checkpoint is being
written. A run that comes to its end before all kills are used is compared, and the next one begins.

Under "deterministic" and "lockstep" the last weights and moments, all recorded completions and metrics.jsonl without its
times and its counts of filled caches must be the same bytes. Under "async" every group must be learned from once with all
its members, and the lengths of all completions must be distributed as in the run that nothing stopped (Kolmogorov and
Smirnov). Always: no step is missing or twice in metrics.jsonl or in the TensorBoard files, and no half-written checkpoint is left.

Exits with 1 and a line for each difference; the folders then stay.
"""

import argparse
import glob
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

# What depends on the clock, and on how often a resumed run fills its caches again.
UNCOMPARED = ("timing_s/", "time/", "perf/", "segment/prefill_tokens")
# The shortest life, in seconds: a process that is killed before it has begun shows nothing.
LIFE_MIN = 0.05
# Two runs of one kind are told apart by mistake as often as this.
P_MIN = 0.001
CONFIG = ["checkpoint.every_steps=2", 'metrics.console="plain"']


class Run:
    """One folder, and what is run in it."""

    def __init__(self, args, folder):
        self.folder = folder
        self.started = False
        settings = CONFIG + [f'run.schedule="{args.schedule}"'] + args.set
        self.command = [args.binary, "train", args.config, "--run", folder]
        for setting in settings:
            self.command += ["--set", setting]

    def start(self):
        """The next life of the run. What a life says goes to a file beside the folder."""
        resumable = os.path.exists(os.path.join(self.folder, "config.toml"))
        command = self.command + (["--resume"] if resumable else ["--overwrite"])
        with open(self.folder + ".out", "a") as out:
            return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def said(self):
        with open(self.folder + ".out", errors="replace") as out:
            return out.read()

    def read(self, *names):
        with open(os.path.join(self.folder, *names), "rb") as file:
            return file.read()

    def rows(self):
        return [json.loads(line) for line in self.read("metrics.jsonl").splitlines()]

    def steps(self):
        try:
            return [row["step"] for row in self.rows()]
        except (OSError, ValueError):
            return []

    def completions(self):
        for path in sorted(glob.glob(os.path.join(self.folder, "rollouts", "step-*.jsonl"))):
            with open(path, encoding="utf-8") as file:
                yield from map(json.loads, file)

    def last_checkpoint(self):
        names = os.listdir(os.path.join(self.folder, "checkpoints"))
        return os.path.join("checkpoints", max(names, key=lambda name: int(name.rpartition("-")[2] or 0)))


def until_partial(run, life, seconds_max):
    """Waits until a checkpoint is being written, or until the time is over."""
    pattern = os.path.join(run.folder, "checkpoints", ".*.partial")
    end = time.monotonic() + seconds_max
    while time.monotonic() < end and life.poll() is None:
        if glob.glob(pattern):
            return True
        time.sleep(0.0005)
    return False


def kill_often(run, kills, chance, life_max):
    """Kills the run up to so many times; returns where each kill came, and whether the run came to its end."""
    moments = []
    while len(moments) < kills:
        life = run.start()
        if len(moments) % 4 == 3 and until_partial(run, life, 2 * life_max):
            time.sleep(chance.uniform(0, 0.03))
            moment = "checkpoint"
        else:
            moment = "random"
            try:
                life.wait(chance.uniform(LIFE_MIN, life_max))
            except subprocess.TimeoutExpired:
                pass
        if life.poll() is not None:
            ended(run, life)
            return moments, True
        life.send_signal(signal.SIGKILL)
        life.wait()
        moments.append((moment, max(run.steps(), default=0)))
    return moments, False


def ended(run, life):
    if life.wait() != 0:
        sys.exit(f"the run ended with {life.returncode}:\n{run.said()[-2000:]}")


def to_the_end(run):
    ended(run, run.start())


def untimed(row):
    return {tag: value for tag, value in row.items() if not tag.startswith(UNCOMPARED)}


def event_steps(run):
    """The step of each event in the TensorBoard files, in order: records of length, checksum, event, checksum."""
    steps = []
    for path in sorted(glob.glob(os.path.join(run.folder, "tensorboard", "*tfevents*"))):
        with open(path, "rb") as file:
            rest = file.read()
        while rest:
            length = int.from_bytes(rest[:8], "little")
            steps.append(step_of(rest[12 : 12 + length]))
            rest = rest[16 + length :]
    return [step for step in steps if step is not None]


def step_of(event):
    """The field `step` of an event; None where it is the first one of a file, with its version instead."""
    place, step, is_first = 0, 0, False
    while place < len(event):
        key, place = varint(event, place)
        if key & 7 == 0:
            value, place = varint(event, place)
            step = value if key >> 3 == 2 else step
        elif key & 7 == 2:
            length, place = varint(event, place)
            place, is_first = place + length, is_first or key >> 3 == 3
        else:
            place += 8 if key & 7 == 1 else 4
    return None if is_first else step


def varint(data, place):
    value = shift = 0
    while True:
        byte = data[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place


def same_steps(whole, broken):
    """What every schedule promises of the files of metrics."""
    if whole.steps() != broken.steps():
        yield f"metrics.jsonl: the steps are {broken.steps()}, not {whole.steps()}"
    if event_steps(whole) != event_steps(broken):
        yield f"tensorboard: the steps are {event_steps(broken)}, not {event_steps(whole)}"
    left = [name for name in os.listdir(os.path.join(broken.folder, "checkpoints")) if name.startswith(".")]
    if left:
        yield f"checkpoints: {', '.join(left)} are left"


def same_bytes(whole, broken):
    """What "deterministic" and "lockstep" promise."""
    for one, two in zip(whole.rows(), broken.rows()):
        if json.dumps(untimed(one)) != json.dumps(untimed(two)):
            tags = [tag for tag in one.keys() | two.keys() if one.get(tag) != two.get(tag)]
            yield f"metrics.jsonl, step {one['step']}: {sorted(tag for tag in tags if not tag.startswith(UNCOMPARED))}"
    names = {os.path.relpath(path, whole.folder) for path in glob.glob(os.path.join(whole.folder, "rollouts", "*"))}
    last = whole.last_checkpoint()
    whole_files = ["model.safetensors", "config.json"]
    adapters = ["adapter_model.safetensors", "adapter_config.json"]
    trained = adapters if os.path.exists(os.path.join(whole.folder, last, adapters[0])) else whole_files
    weights = trained + ["optimizer.safetensors", "trainer_state.json"]
    for name in sorted(names) + [os.path.join(last, file) for file in weights]:
        try:
            if whole.read(name) != broken.read(name):
                yield f"{name}: differs"
        except OSError as error:
            yield f"{name}: {error}"


def same_prompts(whole, broken):
    """What "async" promises."""
    sizes = {}
    for completion in broken.completions():
        sizes[completion["group"]] = sizes.get(completion["group"], 0) + 1
    expected = {}
    for completion in whole.completions():
        expected[completion["group"]] = expected.get(completion["group"], 0) + 1
    if sorted(sizes.values()) != sorted(expected.values()):
        yield f"{len(sizes)} groups of {set(sizes.values())} members, not {len(expected)} of {set(expected.values())}"
    dropped = [tag for tag, value in broken.rows()[-1].items() if tag.startswith("queue/dropped") and value > 0]
    if dropped:
        yield f"groups were left out: {dropped}"
    one = [len(completion["completion_tokens"]) for completion in whole.completions()]
    two = [len(completion["completion_tokens"]) for completion in broken.completions()]
    distance, p = kolmogorov_smirnov(one, two)
    print(f"  lengths: means {mean(one):.2f} and {mean(two):.2f}, D {distance:.4f}, p {p:.3f}")
    if p < P_MIN:
        yield f"lengths are distributed otherwise: D {distance:.4f}, p {p:.5f}"


def mean(values):
    return sum(values) / max(len(values), 1)


def kolmogorov_smirnov(one, two):
    """The largest distance of two distributions and how likely it is by chance."""
    one, two = sorted(one), sorted(two)
    distance = i = j = 0
    for value in sorted(set(one + two)):
        while i < len(one) and one[i] <= value:
            i += 1
        while j < len(two) and two[j] <= value:
            j += 1
        distance = max(distance, abs(i / len(one) - j / len(two)))
    scale = distance * math.sqrt(len(one) * len(two) / (len(one) + len(two)))
    if scale < 0.2:
        return distance, 1.0
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * k * k * scale * scale) for k in range(1, 101))
    return distance, min(max(sum(terms), 0.0), 1.0)


def read_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--binary", default="target/release/longhaul", help="the program [%(default)s]")
    parser.add_argument("--config", default="configs/quickstart.toml", help="what is run [%(default)s]")
    parser.add_argument("--schedule", default="deterministic", choices=["deterministic", "lockstep", "async"])
    parser.add_argument("--kills", type=int, default=50, help="how often [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="of the times between kills [%(default)s]")
    parser.add_argument("--life", type=float, help="the longest life, in seconds [a tenth of the whole run]")
    parser.add_argument("--folder", help="where the runs write [a temporary folder]")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes the config")
    return parser.parse_args()


def main():
    args = read_arguments()
    home = args.folder or tempfile.mkdtemp(prefix="killed-")
    os.makedirs(home, exist_ok=True)
    chance = random.Random(args.seed)
    whole = Run(args, os.path.join(home, "whole"))
    began = time.monotonic()
    to_the_end(whole)
    seconds = time.monotonic() - began
    life_max = args.life or max(seconds / 10, 1.0)
    print(f"a run that nothing stops: {seconds:.1f} s, steps {len(whole.steps())}; kills after up to {life_max:.1f} s")
    differences, left, number = [], args.kills, 0
    while left > 0:
        number += 1
        broken = Run(args, os.path.join(home, f"broken-{number}"))
        moments, is_over = kill_often(broken, left, chance, life_max)
        left -= len(moments)
        if not is_over:
            to_the_end(broken)
        compare = same_prompts if args.schedule == "async" else same_bytes
        found = list(same_steps(whole, broken)) + list(compare(whole, broken))
        writing = sum(moment == "checkpoint" for moment, _ in moments)
        steps = ", ".join(str(step) for _, step in moments)
        verdict = "DIFFERENT" if found else "equal"
        print(f"{len(moments)} kills, {writing} of them while a checkpoint was written, at steps {steps}: {verdict}")
        differences += [f"{broken.folder}: {line}" for line in found]
    for line in differences:
        print(line)
    if not differences and not args.folder:
        shutil.rmtree(home)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
