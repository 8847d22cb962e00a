#!/usr/bin/env python3
"""Checks that peft loads an adapter that longhaul saved, and computes the same with it.

    cargo build --release
    python3 scripts/check_adapter.py BASE ADAPTER [--longhaul target/release/longhaul]

Needs PyTorch, transformers and peft. The log-probabilities of random tokens are computed by peft on the base, and by
`longhaul logprobs` with the adapter, in the training forward and in cached decoding. Exits with 1 where one is off by more
than the tolerance, where peft finds a tensor missing or unknown, or where the adapter changes nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4
LENGTHS = [2, 40, 90]


@torch.no_grad()
def logprobs(model, rows):
    """Of every token that follows another."""
    for row in rows:
        tokens = torch.tensor([row])
        chosen = torch.log_softmax(model(input_ids=tokens).logits[0, :-1].float(), dim=-1)
        yield chosen.gather(1, tokens[0, 1:, None])[:, 0].tolist()


def of_longhaul(args, rows, *more):
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "in.jsonl"), os.path.join(folder, "out.jsonl")
        with open(source, "w") as file:
            file.writelines(json.dumps({"tokens": row}) + "\n" for row in rows)
        command = [args.longhaul, "logprobs", "--model", args.adapter, "--base", args.base]
        subprocess.run([*command, "--input", source, "--output", target, *more], check=True)
        with open(target) as file:
            return [json.loads(line)["logprobs"] for line in file]


def worst(one, other):
    return max(abs(x - y) for a, b in zip(one, other, strict=True) for x, y in zip(a, b, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("adapter")
    parser.add_argument("--longhaul", default="target/release/longhaul")
    args = parser.parse_args()
    warnings.simplefilter("error", UserWarning)
    base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    vocabulary = base.config.vocab_size
    rows = [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in LENGTHS]
    plain = list(logprobs(base, rows))
    model = PeftModel.from_pretrained(base, args.adapter).eval()
    expected = list(logprobs(model, rows))
    moved = worst(plain, expected)
    print(f"the adapter moves log-probabilities by up to {moved:.3g}")
    failed = moved == 0.0
    for more in [], ["--cached"]:
        error = worst(of_longhaul(args, rows, *more), expected)
        print(f"longhaul logprobs {' '.join(more)}: off by up to {error:.2e}")
        failed |= error > TOLERANCE
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
