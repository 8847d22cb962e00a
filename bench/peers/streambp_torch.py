"""One forward and backward pass in PyTorch, to put beside `longhaul bench streambp`.

The same decoder (Llama, tied embedding, random weights), the same tokens and the same loss (the mean negative
log-probability of the next token), in f32 on the CPU, with SDPA attention. Prints one JSON object a length and
path, with the columns of `longhaul bench streambp --json`: `forward_s` is a pass without gradients, `backward_s`
forward and backward together less that, `peak_bytes` the peak of resident memory above the weights. Every row is
measured in a process of its own. `checkpointed` recomputes each layer; both paths hold the whole logits.

    python bench/peers/streambp_torch.py --shape 256,6,8,8,768,4096 --tokens 1024,4096 --threads 2
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


def memory(line):
    with open("/proc/self/status") as status:
        for text in status:
            if text.startswith(line + ":"):
                return int(text.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {line}")


def weights(shape):
    hidden, layers, heads, kv_heads, intermediate, vocabulary = shape
    width = hidden // heads
    generator = torch.Generator().manual_seed(1)

    def normal(*size):
        return (torch.randn(*size, generator=generator) * 0.02).requires_grad_()

    def gain():
        return torch.ones(hidden, requires_grad=True)

    blocks = [
        {
            "input_norm": gain(),
            "query": normal(heads * width, hidden),
            "key": normal(kv_heads * width, hidden),
            "value": normal(kv_heads * width, hidden),
            "output": normal(hidden, heads * width),
            "post_norm": gain(),
            "gate": normal(intermediate, hidden),
            "up": normal(intermediate, hidden),
            "down": normal(hidden, intermediate),
        }
        for _ in range(layers)
    ]
    return {"embedding": normal(vocabulary, hidden), "blocks": blocks, "final_norm": gain()}


def rotate(x, angles):
    cos, sin = angles
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


def block_forward(x, block, shape, angles):
    hidden, _, heads, kv_heads, _, _ = shape
    rows, width = x.shape[0], hidden // heads
    normed = F.rms_norm(x, (hidden,), block["input_norm"], 1e-5)
    query = F.linear(normed, block["query"]).view(rows, heads, width).transpose(0, 1)
    key = F.linear(normed, block["key"]).view(rows, kv_heads, width).transpose(0, 1)
    value = F.linear(normed, block["value"]).view(rows, kv_heads, width).transpose(0, 1)
    query, key = rotate(query, angles), rotate(key, angles)
    mixed = F.scaled_dot_product_attention(
        query[None], key[None], value[None], is_causal=True, enable_gqa=heads != kv_heads
    )[0]
    x = x + F.linear(mixed.transpose(0, 1).reshape(rows, hidden), block["output"])
    normed = F.rms_norm(x, (hidden,), block["post_norm"], 1e-5)
    gated = F.silu(F.linear(normed, block["gate"])) * F.linear(normed, block["up"])
    return x + F.linear(gated, block["down"])


def loss(model, ids, shape, angles, checkpointed):
    x = F.embedding(ids, model["embedding"])
    for block in model["blocks"]:
        if checkpointed and torch.is_grad_enabled():
            x = checkpoint(block_forward, x, block, shape, angles, use_reentrant=False)
        else:
            x = block_forward(x, block, shape, angles)
    normed = F.rms_norm(x, (shape[0],), model["final_norm"], 1e-5)
    logits = F.linear(normed, model["embedding"])
    return F.cross_entropy(logits[:-1], ids[1:], reduction="sum") / len(ids)


def measure(shape, tokens, path, repeats):
    model = weights(shape)
    t = torch.arange(tokens)
    ids = (t * 7919 + t * t) % shape[5]
    width = shape[0] // shape[2]
    frequencies = 10_000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.outer(t.float(), frequencies)
    angles = (angles.cos(), angles.sin())
    before = memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")
    forward, both = [], []
    peak = 0
    for _ in range(repeats):
        start = time.perf_counter()
        loss(model, ids, shape, angles, path == "checkpointed").backward()
        both.append(time.perf_counter() - start)
        peak = max(peak, memory("VmHWM") - before)
        start = time.perf_counter()
        with torch.no_grad():
            loss(model, ids, shape, angles, False)
        forward.append(time.perf_counter() - start)
    forward_s = statistics.median(forward)
    backward_s = statistics.median(both) - forward_s
    return {
        "tokens": tokens,
        "path": path,
        "forward_s": round(forward_s, 4),
        "backward_s": round(backward_s, 4),
        "peak_bytes": peak,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="256,6,8,8,768,4096")
    parser.add_argument("--tokens", default="1024,4096")
    parser.add_argument("--paths", default="unchunked,checkpointed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    shape = [int(number) for number in args.shape.split(",")]
    tokens = [int(number) for number in args.tokens.split(",")]
    paths = args.paths.split(",")
    torch.set_num_threads(args.threads)
    if len(tokens) == 1 and len(paths) == 1:
        print(json.dumps(measure(shape, tokens[0], paths[0], args.repeats)))
        return
    for length in tokens:
        for path in paths:
            command = [sys.executable, __file__, "--shape", args.shape, "--tokens", str(length), "--paths", path]
            command += ["--repeats", str(args.repeats), "--threads", str(args.threads)]
            print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
