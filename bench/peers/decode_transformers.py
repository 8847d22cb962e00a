"""Decoding and prefill with transformers, to put beside `longhaul bench decode`.

A Llama of the same shape with random weights, in f32 on the CPU: `generate` with a cache, drawing at temperature 1,
from prompts of `context` tokens. Prints one JSON object a row with the columns of `longhaul bench decode --json`.
Prefill is one forward pass over the context; decoding is the time of `generate` for many tokens less that for one,
which leaves the prefill out.

    python bench/peers/decode_transformers.py --shape 576,30,9,3,1536,49152 --batches 1,16 --contexts 512 --threads 2
"""

import argparse
import json
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def model(shape, positions, deviation=0.02):
    hidden, layers, heads, kv_heads, intermediate, vocabulary = shape
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        max_position_embeddings=positions,
        initializer_range=deviation,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(llama, batch, context, new_tokens, repeats):
    vocabulary = llama.config.vocab_size
    ids = [(t * 7919 + t * t) % vocabulary for t in range(context)]
    prompts = torch.tensor([ids] * batch)
    mask = torch.ones_like(prompts)

    def generate(count):
        settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        llama.generate(
            prompts, attention_mask=mask, min_new_tokens=count, max_new_tokens=count, use_cache=True, **settings
        )

    generate(2)
    rates = []
    for _ in range(repeats):
        one = seconds(lambda: generate(1))
        many = seconds(lambda: generate(1 + new_tokens))
        rates.append(batch * new_tokens / (many - one))
    return statistics.median(rates)


def prefill(llama, context, repeats):
    vocabulary = llama.config.vocab_size
    prompt = torch.tensor([[(t * 7919 + t * t) % vocabulary for t in range(context)]])

    def forward():
        llama.model(prompt, use_cache=True)

    forward()
    return context / statistics.median(seconds(forward) for _ in range(repeats))


def numbers(text):
    return [int(number) for number in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=numbers, default=[576, 30, 9, 3, 1536, 49152])
    parser.add_argument("--batches", type=numbers, default=[1, 8, 16, 64])
    parser.add_argument("--contexts", type=numbers, default=[512, 4096])
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    llama = model(args.shape, max(args.contexts) + args.new_tokens + 1)
    with torch.inference_mode():
        for context in args.contexts:
            row = {"phase": "prefill", "batch": 1, "context": context, "precision": "f32"}
            print(json.dumps(row | {"tokens_per_s": prefill(llama, context, args.repeats)}), flush=True)
            for batch in args.batches:
                row = {"phase": "decode", "batch": batch, "context": context, "precision": "f32"}
                rate = measure(llama, batch, context, args.new_tokens, args.repeats)
                print(json.dumps(row | {"tokens_per_s": rate}), flush=True)


if __name__ == "__main__":
    main()
