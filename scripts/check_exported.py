"""Checks that other programs read what longhaul imported or exported as they read the original.

    python scripts/check_exported.py gguf FILE DIR        transformers: a GGUF file and the directory made of it
    python scripts/check_exported.py directory ONE OTHER  transformers: two directories or GGUF files
    python scripts/check_exported.py llama_cpp FILE DIR   llama.cpp on a GGUF file and transformers on the directory

Compares logits of a text, greedy continuations, and the ids of lines with all kinds of characters. Needs PyTorch and
transformers 5, for the last one llama-cpp-python. Exits with 1 where a logit differs by more than --logits, a
continuation by a token, or a line by an id.
"""

import argparse
import os
import random
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = "The capital of France is Paris, and it lies on the Seine. Two and two make four;\n  def f(x): return x + 42\n"
PROMPTS = ["The capital of France is", "Once upon a time", "def fibonacci(n):", "Water boils at", "1, 2, 3, 4,"]
WORDS = ["the", "Hello", "don't", "x=1", "3.14", "  7", "\n\n", "\t", "naïve", "日本", "한국", "😀", "👩‍👩‍👧", "½", "<s>", "<|im_start|>", "<bos>"]


def files(path):
    path = Path(path)
    if path.is_dir():
        return dict(pretrained_model_name_or_path=str(path))
    return dict(pretrained_model_name_or_path=str(path.parent), gguf_file=path.name)


def load(path):
    model = AutoModelForCausalLM.from_pretrained(**files(path), dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(**files(path))


def lines(count):
    draw = random.Random(5)
    for number in range(count):
        if number % 2:
            yield " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 12)))
        else:
            alphabets = [(32, 126), (0, 255), (0x370, 0x5FF), (0x3040, 0x9FFF), (0x1F300, 0x1FAFF), (0x2150, 0x218F)]
            low, high = draw.choice(alphabets)
            yield "".join(chr(draw.randint(low, high)) for _ in range(draw.randint(1, 40)))


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids])).logits[0]


@torch.no_grad()
def greedy(model, ids, tokens):
    return model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=tokens)[0].tolist()


def llama_cpp_logits(file, ids):
    from llama_cpp import Llama

    model = Llama(str(file), n_ctx=512, logits_all=True, verbose=False)
    model.eval(ids)
    return torch.tensor(model.scores[: len(ids)]).float(), model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["gguf", "directory", "llama_cpp"])
    parser.add_argument("one")
    parser.add_argument("other")
    parser.add_argument("--logits", type=float, default=1e-4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--lines", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    other, other_tokenizer = load(arguments.other)
    ids = other_tokenizer(TEXT)["input_ids"]
    wrong = 0
    if arguments.kind == "llama_cpp":
        found, model = llama_cpp_logits(arguments.one, ids)
        encode = lambda text: model.tokenize(text.encode(), add_bos=True, special=True)
        continued = None
    else:
        one, tokenizer = load(arguments.one)
        found, encode = logits_of(one, ids), lambda text: tokenizer(text)["input_ids"]
        continued = lambda ids: greedy(one, ids, arguments.tokens)
    worst = (found - logits_of(other, ids)).abs().max().item()
    print(f"logits: {worst:.2e}")
    wrong += worst > arguments.logits
    if continued:
        prompts = [other_tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
        same = sum(continued(ids) == greedy(other, ids, arguments.tokens) for ids in prompts)
        print(f"continuations: {same} of {len(PROMPTS)}")
        wrong += same < len(PROMPTS)
    differ = [line for line in lines(arguments.lines) if encode(line) != other_tokenizer(line)["input_ids"]]
    print(f"lines: {arguments.lines - len(differ)} of {arguments.lines}", *map(repr, differ[:3]))
    wrong += bool(differ)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
