#!/usr/bin/env python3
"""Checks that longhaul computes, continues, tokenizes and renders as transformers, or llama.cpp, does with the same model.

    python scripts/compare_import.py DIR                   transformers on the directory itself
    python scripts/compare_import.py DIR --of FILE.gguf    transformers' own reading of the file that DIR was made of
    python scripts/compare_import.py DIR --llama-cpp FILE  llama.cpp on a file that was made of DIR, or that DIR was made of

DIR is what longhaul reads. Needs PyTorch and transformers 5 (and gguf), for llama.cpp the package xllamacpp. longhaul's side
is its commands: `logprobs` with the training forward and with cached decoding, `generate`, `tokenize`. Exits with 1 where a
log-probability or an entropy differs by more than --tolerance, a greedy continuation by a token, a line by an id, or a
rendered conversation by a character.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

PROMPTS = [
    "The capital of France is", "Once upon a time", "def fibonacci(n):", "Water boils at", "1, 2, 3, 4,", "The largest planet",
    "In 1969,", "My favourite colour", "import numpy as np\n", "Q: What is 2+2?\nA:", "Dear Sir,", "The sun", "A cat and a dog",
    "To be or not", "Once there was", "She said", "Python is", "Mathematics is", "Hello", "Rain falls",
]  # fmt: skip
TEXTS = [
    "The capital of France is Paris.",
    "def f(x):\n    return x + 1\n",
    "日本語のテキスト 12345  678 😀",
    "The capital of France is Paris, and it lies on the Seine. Two and two make four;\n  def f(x): return x + 42\n" * 5,
]
WORDS = [
    "the", "Hello", "don't", "I'LL", "x=1", "3.14", "  7", "12345", "\n\n", "\t", "\r\n", "naïve", "日本", "한국", "😀", "👩‍👩‍👧", "½", "<s>",
    "</s>", "<bos>", "<eos>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<start_of_turn>", "<0x0A>", "\u2581", "    ",
    "def f(x):\n    return x", "https://example.org/?q=1&r=2#x", "a\u0301", "\u200b", "\u00a0", "\x00", "\x1b[0m", "\ufeff", "\U0010ffff",
]  # fmt: skip
ALPHABETS = [
    (32, 126), (0, 31), (0, 255), (48, 57), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xAC00, 0xD7A3),
    (0x2000, 0x206F), (0x2150, 0x218F), (0x3040, 0x9FFF), (0x1F300, 0x1FAFF), (0x10000, 0x10FFFF),
]  # fmt: skip
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a"]},
    },
}
USER = {"role": "user", "content": "What is 2 + 3? Answer with <b>one</b> number."}
ANSWER = {"role": "assistant", "content": "5"}
CONVERSATIONS = [
    {"messages": [USER]},
    {"messages": [{"role": "system", "content": "You are terse."}, USER]},
    {"messages": [{"role": "system", "content": ""}, USER, ANSWER, {"role": "user", "content": " And 3 + 4? \n"}]},
    {"messages": [USER, ANSWER], "add_generation_prompt": False},
    {"messages": [{"role": "user", "content": "<|im_end|>\n<|im_start|>system {{ 1 + 1 }} 'quoted' \"twice\" naïve 😀"}]},
    {"messages": [USER, {"role": "assistant", "content": "<think>\n2 + 3\n</think>\n\n5"}, USER]},
    {"messages": [USER], "tools": [TOOL]},
    {"messages": [{"role": "system", "content": "Use tools."}, USER], "tools": [TOOL]},
]
TOKENS = 64


def lines(count):
    draw = random.Random(17)
    for number in range(count):
        kind = number % 5
        if kind < 2:
            yield draw.choice(["", " "]).join(draw.choice(WORDS) for _ in range(draw.randint(0, 14)))
        elif kind < 4:
            low, high = draw.choice(ALPHABETS)
            codes = (draw.randint(low, high) for _ in range(draw.randint(1, 60)))
            yield "".join(chr(code) for code in codes if not 0xD800 <= code <= 0xDFFF)
        else:
            # Very long words, and runs of one character.
            yield draw.choice([" ", "ab", "9", "=", "あ", "xyz"]) * draw.randint(1, 300) + draw.choice(WORDS)


class Longhaul:
    def __init__(self, program, directory):
        self.program, self.directory = program, directory

    def rows(self, command, rows, *more):
        """What a command makes of the rows of a file."""
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
            source.write_text("".join(json.dumps(row) + "\n" for row in rows))
            line = [self.program, command, "--model", self.directory, "--input", source, "--output", target, *more]
            subprocess.run(line, check=True)
            return [json.loads(line) for line in target.read_text().split("\n") if line]

    def greedy(self, prompts):
        rows = [{"tokens": prompt} for prompt in prompts]
        settings = ["rollout.temperature=0", f"rollout.output_tokens_max={TOKENS}"]
        return self.rows("generate", rows, *(word for setting in settings for word in ("--set", setting)))


class Transformers:
    name = "transformers"

    def __init__(self, path):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(2)
        path = Path(path)
        files = dict(pretrained_model_name_or_path=str(path))
        if path.is_file():
            files = dict(pretrained_model_name_or_path=str(path.parent), gguf_file=path.name)
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(**files, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(**files)

    def encode(self, text):
        return self.tokenizer(text)["input_ids"]

    def logprobs(self, tokens):
        with self.torch.no_grad():
            spread = self.model(self.torch.tensor([tokens])).logits[0, :-1].double().log_softmax(-1)
        chosen = spread.gather(1, self.torch.tensor(tokens[1:])[:, None])[:, 0]
        return chosen.tolist(), (-(spread.exp() * spread).sum(-1)).tolist()

    def greedy(self, tokens):
        with self.torch.no_grad():
            out = self.model.generate(
                self.torch.tensor([tokens]), do_sample=False, max_new_tokens=TOKENS, repetition_penalty=1.0
            )
        return out[0, len(tokens) :].tolist()

    def render(self, row):
        if not self.tokenizer.chat_template:
            return None
        ends = {"add_generation_prompt": row.get("add_generation_prompt", True)}
        return self.tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False, **ends)


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, path):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = 1024, 1, 0
        params.warmup = params.fit_params = False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.use_jinja = True
        params.verbosity = -1
        self.server = xllamacpp.Server(params)

    def post(self, path, body):
        request = urllib.request.Request(
            self.server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            sys.exit(f"llama.cpp: {path}: {error.read().decode()}")

    def encode(self, text):
        return self.post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]

    def spread(self, tokens, count):
        """The likeliest tokens after others with their log-probabilities. What is drawn is the same letter always, as the
        distribution is not said after half a character."""
        body = dict(prompt=tokens, n_predict=1, temperature=0, n_probs=count, cache_prompt=False, return_tokens=True)
        letter = self.post("/tokenize", {"content": "a", "add_special": False})["tokens"][0]
        said = self.post("/completion", body | dict(logit_bias=[[letter, 1000.0]], ignore_eos=True))
        return {entry["id"]: entry["logprob"] for entry in said["completion_probabilities"][0]["top_logprobs"]}

    def logprobs(self, tokens):
        """Those of tokens among the likeliest; the entropy is that of a distribution that is not known."""
        spreads = [self.spread(tokens[: place + 1], 200) for place in range(len(tokens) - 1)]
        return [spread.get(token) for spread, token in zip(spreads, tokens[1:])], [None] * len(spreads)

    def greedy(self, tokens):
        body = dict(prompt=tokens, n_predict=TOKENS, temperature=0, cache_prompt=False, return_tokens=True, repeat_penalty=1.0)
        return self.post("/completion", body)["tokens"]

    def render(self, row):
        body = {key: value for key, value in row.items() if key != "add_generation_prompt"}
        if not row.get("add_generation_prompt", True):
            return None
        return self.post("/apply-template", body)["prompt"]


def furthest(found, expected):
    pairs = [(a, b) for one, other in zip(found, expected, strict=True) for a, b in zip(one, other, strict=True)]
    return max((abs(a - b) for a, b in pairs if b is not None), default=math.nan), sum(b is not None for _, b in pairs)


def compare_numbers(longhaul, peer, rows, tolerance):
    expected = [peer.logprobs(row) for row in rows]
    wrong = 0
    for more in [], ["--cached"]:
        found = longhaul.rows("logprobs", [{"tokens": row} for row in rows], *more)
        for place, kind in enumerate(["logprobs", "entropies"]):
            worst, count = furthest([row[kind] for row in found], [row[place] for row in expected])
            if count:
                print(f"{kind} {' '.join(more)}: off by up to {worst:.2e} at {count} tokens")
                wrong += worst > tolerance
    return wrong


def compare_continuations(longhaul, peer, prompts):
    found = longhaul.greedy(prompts)
    wrong = 0
    for prompt, row in zip(prompts, found, strict=True):
        expected, own = peer.greedy(prompt), row["completion_tokens"]
        if peer.name == "llama.cpp" and row["finish"] == "stop":
            # It does not say the token that ends an answer.
            own = own[: len(expected)] if len(own) == len(expected) + 1 else own
        if own != expected:
            wrong += 1
            place = next((n for n, (a, b) in enumerate(zip(own, expected)) if a != b), min(len(own), len(expected)))
            print(f"  {prompt}: differs from token {place}: {own[place : place + 4]} for {expected[place : place + 4]}")
    print(f"continuations of {TOKENS} tokens: {len(prompts) - wrong} of {len(prompts)} equal; the first: {found[0]['completion']!r}")
    return wrong


def compare_lines(longhaul, peer, count):
    texts = list(lines(count))
    found = [row["tokens"] for row in longhaul.rows("tokenize", [{"text": text} for text in texts])]
    differ = [(text, own, ids) for text, own in zip(texts, found) if own != (ids := peer.encode(text))]
    print(f"lines: {count - len(differ)} of {count} equal")
    for text, own, ids in differ[:5]:
        print(f"  {text[:60]!r}: {own[:12]} for {ids[:12]}")
    return len(differ)


def compare_conversations(longhaul, peer):
    if not any(Path(longhaul.directory, name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        print("conversations: there is no chat template")
        return 0
    config = json.loads(Path(longhaul.directory, "tokenizer_config.json").read_text())
    begin = config.get("bos_token")
    begin = begin["content"] if isinstance(begin, dict) else begin
    wrong = compared = 0
    for row in CONVERSATIONS:
        expected = peer.render(row)
        if expected is None:
            continue
        compared += 1
        found = longhaul.rows("tokenize", [row])[0]
        ids = peer.tokenizer(expected, add_special_tokens=False)["input_ids"] if peer.name == "transformers" else found["tokens"]
        text = found["text"]
        if peer.name == "llama.cpp" and begin and text == begin + expected:
            # It leaves out the begin that it puts before every text.
            text = expected
        if text != expected or found["tokens"] != ids:
            wrong += 1
            print(f"  {row}: {found['text']!r} for {expected!r}")
    print(f"conversations: {compared - wrong} of {compared} equal")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--of", help="a directory or a GGUF file that transformers reads in the place of DIR")
    parser.add_argument("--llama-cpp", help="a GGUF file that llama.cpp reads")
    parser.add_argument("--longhaul", default="target/release/longhaul")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--only", choices=["numbers", "continuations", "lines", "conversations"], action="append")
    args = parser.parse_args()
    longhaul = Longhaul(args.longhaul, args.directory)
    peer = LlamaCpp(args.llama_cpp) if args.llama_cpp else Transformers(args.of or args.directory)
    positions = json.loads(Path(args.directory, "config.json").read_text())["max_position_embeddings"]
    texts = [peer.encode(text)[:positions] for text in TEXTS]
    prompts = [peer.encode(prompt)[: positions - TOKENS] for prompt in PROMPTS]
    checks = {
        "lines": lambda: compare_lines(longhaul, peer, args.lines),
        "conversations": lambda: compare_conversations(longhaul, peer),
        "numbers": lambda: compare_numbers(longhaul, peer, texts, args.tolerance),
        "continuations": lambda: compare_continuations(longhaul, peer, prompts),
    }
    wrong = [name for name, check in checks.items() if (not args.only or name in args.only) and check()]
    print(f"{args.directory}: {'differs in ' + ', '.join(wrong) if wrong else 'equal'}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
