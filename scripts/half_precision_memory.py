#!/usr/bin/env python3
"""Measures what models with weights in bf16 hold in memory, on checkpoints of random numbers that it writes.

    python3 scripts/half_precision_memory.py [--longhaul target/release/longhaul] [--folder DIR] [--only load,adapters]

`load` writes a checkpoint of 2 GB in shards and has `longhaul generate` and `longhaul logprobs` read it: the peak of the
process over the bytes of the files must be below 1.15. `adapters` writes the shapes of Qwen3-0.6B and has `longhaul train`
make steps of LoRA beside a base in bf16, with evaluations and checkpoints: the peak must be below 6 GiB, and in each stage
from 5 % above to 15 % below what `longhaul check` plans for it. Numbers do not depend on the speed of the machine. Linux only.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time

MIB = 1 << 20
RATIO_MAX = 1.15
ADAPTERS_MAX = 6 << 30
# Planned over measured, less 1: how far a plan may be below and above the peak.
BAR = (-0.05, 0.15)
SHARD_BYTES = 400 << 20

# Qwen3-0.6B, and one of the same family with 1.0 billion parameters.
SMALL = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
LARGE = {"hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 28}
COMMON = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0, "tie_word_embeddings": True, "initializer_range": 0.02, "hidden_act": "silu",
    "eos_token_id": 1, "pad_token_id": 0, "torch_dtype": "bfloat16",
}

CONFIG = """
[run]
seed = 1
steps = 3
schedule = "lockstep"
[model]
path = {model}
dtype = "bf16"
[data]
kind = "jsonl"
path = {data}
[rollout]
output_tokens_max = 24
segments_max = 1
trajectories_open_max = 8
group_size = 4
temperature = 1.0
truncated_reward = "scored"
# Lengths differ, so that segments of older versions are open.
stop = [" "]
min_tokens = 16
[queue]
groups_max = 4
staleness_versions_max = 4
[[rewards]]
kind = "words"
words_min = 9
words_max = 9
limit = 60
[learner]
groups_per_step = 1
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
[learner.lora]
rank = 16
alpha = 32.0
target_modules = "all-linear"
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
problems = 4
temperature = 0.0
before = true
after = true
data = {data}
[checkpoint]
every_steps = 1
keep_last = 1
[metrics]
console = "plain"
"""


def tensors(config):
    """Names and shapes in the order of published files."""
    hidden, width = config["hidden_size"], config["head_dim"]
    query, key = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    wide = config["intermediate_size"]
    yield "model.embed_tokens.weight", [config["vocab_size"], hidden]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", [hidden]
        yield at + "self_attn.q_proj.weight", [query, hidden]
        yield at + "self_attn.k_proj.weight", [key, hidden]
        yield at + "self_attn.v_proj.weight", [key, hidden]
        yield at + "self_attn.q_norm.weight", [width]
        yield at + "self_attn.k_norm.weight", [width]
        yield at + "self_attn.o_proj.weight", [hidden, query]
        yield at + "post_attention_layernorm.weight", [hidden]
        yield at + "mlp.gate_proj.weight", [wide, hidden]
        yield at + "mlp.up_proj.weight", [wide, hidden]
        yield at + "mlp.down_proj.weight", [hidden, wide]
    yield "model.norm.weight", [hidden]


def byte_count(shape):
    count = 2
    for length in shape:
        count *= length
    return count


def numbers():
    """Numbers in bf16 between 0.004 and 0.06, of both signs: so many that no two rows of a matrix are equal."""
    drawn = random.Random(1)
    halves = bytearray()
    for noise in drawn.randbytes(2 * 1000003):
        halves.append(noise)
    for place in range(1, len(halves), 2):
        # The sign, and an exponent from 2^-8 to 2^-5; the lowest bit of the exponent is in the other byte.
        halves[place] = (halves[place] & 0x80) | (0x3c if halves[place] & 0x40 else 0x3b)
    return bytes(halves)


def write_numbers(output, block, at, count):
    while count > 0:
        part = block[at:at + count]
        output.write(part)
        count -= len(part)
        at = (at + len(part)) % len(block)
    return at


def write_shard(path, own, block, at):
    header, end = {}, 0
    for name, shape in own:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + byte_count(shape)]}
        end += byte_count(shape)
    text = json.dumps(header).encode()
    with open(path, "wb") as output:
        output.write(len(text).to_bytes(8, "little") + text)
        for name, shape in own:
            if "norm" in name:
                output.write(b"\x80\x3f" * shape[0])
            else:
                at = write_numbers(output, block, at, byte_count(shape))
    return at


def write_tokenizer(folder, vocabulary):
    """Tokens are single characters, every second one of those that no prompt has behind a space."""
    texts = ["<pad>", "</s>"] + [chr(code) for code in range(0x20, 0x7f)]
    code = 0x4e00
    while len(texts) < vocabulary:
        if not 0xd800 <= code < 0xe000:
            texts.append(" " * (code % 2) + chr(code))
        code += 1
    special = lambda number: {"id": number, "content": texts[number], "single_word": False, "lstrip": False,
                              "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special(0), special(1)],
        "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {text: number for number, text in enumerate(texts)}, "merges": []},
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>",
              "clean_up_tokenization_spaces": False}
    for name, content in [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)]:
        with open(f"{folder}/{name}", "w") as output:
            json.dump(content, output)


def write_model(folder, shape):
    """A Hugging Face directory in shards; returns the bytes of its tensors."""
    config = {**COMMON, **shape}
    index = f"{folder}/model.safetensors.index.json"
    if os.path.exists(index):
        return json.load(open(index))["metadata"]["total_size"]
    os.makedirs(folder, exist_ok=True)
    shards, size = [[]], 0
    for name, shape in tensors(config):
        if shards[-1] and size + byte_count(shape) > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += byte_count(shape)
    block, at, places, total = numbers(), 0, {}, 0
    for number, own in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        at = write_shard(f"{folder}/{file}", own, block, at)
        places.update({name: file for name, _ in own})
        total += sum(byte_count(shape) for _, shape in own)
    with open(f"{folder}/config.json", "w") as output:
        json.dump(config, output)
    write_tokenizer(folder, config["vocab_size"])
    with open(index, "w") as output:
        json.dump({"metadata": {"total_size": total}, "weight_map": places}, output)
    return total


def peak_bytes(command):
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{log.read()[-2000:]}")
    return usage.ru_maxrss * 1024


def load(longhaul, folder, missed):
    model = f"{folder}/large"
    total = write_model(model, LARGE)
    rows = f"{folder}/rows.jsonl"
    with open(rows, "w") as output:
        output.write(json.dumps({"tokens": [2 + 7 * place for place in range(64)]}) + "\n")
    generate = ["generate", "--model", model, "--prompt", "What is 4 + 3?", "--set", "rollout.output_tokens_max=8"]
    logprobs = ["logprobs", "--model", model, "--input", rows, "--output", f"{folder}/out.jsonl"]
    for command in [generate, [*logprobs, "--cached"], logprobs]:
        began = time.monotonic()
        ratio = peak_bytes([longhaul, *command]) / total
        name = command[0] + (" --cached" if "--cached" in command else "")
        print(f"{name}: files of {total / 1e6:.0f} MB, peak {ratio:.3f} times as much, "
              f"{time.monotonic() - began:.0f} s", flush=True)
        if ratio >= RATIO_MAX:
            missed.append(f"{name}: {ratio:.3f}")


def planned(longhaul, config):
    """Bytes by the stages of a plan."""
    said = subprocess.run([longhaul, "check", config], check=True, capture_output=True, text=True).stdout
    lines = iter(said.splitlines())
    next(line for line in lines if line.startswith("# Held together in each stage"))
    stages = {}
    for line in lines:
        name, _, mebibytes = line.removeprefix("# ").rpartition(" ")
        try:
            stages[name.strip()] = float(mebibytes) * MIB
        except ValueError:
            break
    return said, stages


class Sampler(threading.Thread):
    """The most that a process held since it was last asked."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.status, self.most, self.lock = f"/proc/{pid}/status", 0, threading.Lock()

    def run(self):
        while True:
            try:
                lines = open(self.status).read().splitlines()
                held = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024
            except (OSError, StopIteration):
                return
            with self.lock:
                self.most = max(self.most, held)
            time.sleep(0.005)

    def take(self):
        with self.lock:
            most, self.most = self.most, 0
            return most


def by_lines(command, log):
    """What a command prints, each line with the most that it held since the one before; and its peak."""
    with open(log, "w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1)
        sampler = Sampler(process.pid)
        sampler.start()
        lines = [(line.rstrip(), sampler.take()) for line in process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)}\n{open(log).read()[-2000:]}")
    return lines, usage.ru_maxrss * 1024


def adapters(longhaul, folder, missed):
    model, data, config = f"{folder}/small", f"{folder}/prompts.jsonl", f"{folder}/run.toml"
    total = write_model(model, SMALL)
    with open(data, "w") as output:
        for number in range(64):
            output.write(json.dumps({"prompt": f"What is {number} + {3 * number}? Answer in words."}) + "\n")
    with open(config, "w") as output:
        output.write(CONFIG.format(model=json.dumps(model), data=json.dumps(data)))
    said, stages = planned(longhaul, config)
    print(said[said.index("# Memory"):])
    run = [longhaul, "train", config, "--run", f"{folder}/run", "--overwrite"]
    lines, peak = by_lines(run, f"{folder}/log")
    print(f"files of {total / MIB:.0f} MiB; the most that was held before each line was printed, MiB:")
    for line, held in lines:
        if line.strip():
            print(f"{held / MIB:9.0f}  {line}")
    most = max(stages.values())
    print(f"peak {peak / MIB:.0f} MiB, planned {most / MIB:.0f} MiB, {100 * (most / peak - 1):+.1f} %", flush=True)
    if peak >= ADAPTERS_MAX:
        missed.append(f"adapters: {peak / MIB:.0f} MiB")
    if not BAR[0] <= most / peak - 1 <= BAR[1]:
        missed.append(f"the plan of adapters: {most / MIB:.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--longhaul", default="target/release/longhaul")
    parser.add_argument("--folder", help="where the checkpoints are written and stay; by default they are removed")
    parser.add_argument("--only", default="load,adapters")
    arguments = parser.parse_args()
    missed = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = os.path.abspath(arguments.folder or temporary)
        for name in arguments.only.split(","):
            {"load": load, "adapters": adapters}[name](arguments.longhaul, folder, missed)
    if missed:
        sys.exit(f"outside of the bounds: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
