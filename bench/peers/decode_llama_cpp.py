"""Decoding and prefill with llama-cpp-python, to put beside `longhaul bench decode`.

The weights of a Hugging Face Llama (`--model DIR`), or random ones of a shape as in `decode_transformers.py`, are
written as a GGUF file into a temporary folder and read by llama.cpp on the CPU. Prints one JSON object a row with the
columns of `longhaul bench decode --json`. As there, contexts are filled before the time is taken, the logits of every
step are computed, and no token is drawn. Every context has a cache of its own (`kv_unified` off). The
cache in f16 and flash attention where it can be are llama.cpp's defaults; `--cache f32 --flash off` is all in f32.

`--check` compares logits with those of transformers instead, in prefill and in batched decoding, and fails where they
differ by more than 1e-3, all in f32.

    python bench/peers/decode_llama_cpp.py --shape 576,30,9,3,1536,49152 --batches 1,16 --contexts 512 --threads 2
    python bench/peers/decode_llama_cpp.py --model models/quickstart --check
"""

import argparse
import ctypes
import json
import os
import statistics
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np
import torch
from decode_transformers import model, numbers, seconds
from transformers import LlamaForCausalLM

TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
FLASH = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def interleaved(rows, heads):
    """The halves of each head's rotation as neighbours: llama.cpp turns pairs, transformers turns halves."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def tensors(llama):
    """Names and arrays of a GGUF file. Its dims are reversed by the writer."""
    config, state = llama.config, llama.state_dict()
    yield "token_embd.weight", state["model.embed_tokens.weight"].numpy()
    for layer in range(config.num_hidden_layers):
        for theirs, name in LAYER.items():
            array = state[f"model.layers.{layer}.{theirs}.weight"].numpy()
            if name == "attn_q":
                array = interleaved(array, config.num_attention_heads)
            if name == "attn_k":
                array = interleaved(array, config.num_key_value_heads)
            yield f"blk.{layer}.{name}.weight", array
    yield "output_norm.weight", state["model.norm.weight"].numpy()
    if not config.tie_word_embeddings:
        yield "output.weight", state["lm_head.weight"].numpy()


def write_gguf(llama, path, precision):
    config = llama.config
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default" or config.attention_bias or config.mlp_bias:
        raise SystemExit("only plain Llama models are written: no scaled rotation and no biases")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    # Only token ids go in and out, so there is no tokenizer.
    writer.add_tokenizer_model("none")
    for name, array in tensors(llama):
        kind = TYPES[precision] if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Contexts:
    """A llama.cpp context of `batch` sequences, each with a cache of its own."""

    def __init__(self, weights, batch, tokens_max, args):
        parameters = llama_cpp.llama_context_default_params()
        # A sequence gets its share of n_ctx, in multiples of 256.
        parameters.n_ctx = batch * -(-tokens_max // 256) * 256
        parameters.n_seq_max = batch
        parameters.n_batch = max(tokens_max, batch)
        parameters.n_threads = parameters.n_threads_batch = args.threads
        parameters.kv_unified = False
        parameters.flash_attn_type = FLASH[args.flash]
        kind = llama_cpp.GGML_TYPE_F32 if args.cache == "f32" else llama_cpp.GGML_TYPE_F16
        parameters.type_k = parameters.type_v = kind
        self.context = llama_cpp.llama_init_from_model(weights, parameters)
        if not self.context:
            raise SystemExit("llama.cpp refused the context")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(weights))
        self.batch = llama_cpp.llama_batch_init(max(tokens_max, batch), 0, 1)

    def feed(self, tokens, logits=True):
        """Feeds (sequence, position, id) and returns the logits: of all tokens, or of the last one."""
        for at, (sequence, position, token) in enumerate(tokens):
            self.batch.token[at] = token
            self.batch.pos[at] = position
            self.batch.n_seq_id[at] = 1
            self.batch.seq_id[at][0] = sequence
            self.batch.logits[at] = logits or at + 1 == len(tokens)
        self.batch.n_tokens = len(tokens)
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama.cpp failed to decode")
        rows = len(tokens) if logits else 1
        # The pointer is there when the computation is over.
        pointer = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(pointer, (rows, self.vocabulary))

    def fill(self, ids, sequences):
        """Fills the first context, and copies it to the others, which own their copies."""
        llama_cpp.llama_memory_clear(self.memory, False)
        self.feed([(0, position, token) for position, token in enumerate(ids)], logits=False)
        for sequence in range(1, sequences):
            llama_cpp.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)

    def cut(self, sequences, tokens):
        for sequence in range(sequences):
            llama_cpp.llama_memory_seq_rm(self.memory, sequence, tokens, -1)

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)


def text(vocabulary, tokens):
    return [(t * 7919 + t * t) % vocabulary for t in range(tokens)]


def measure(weights, batch, context, args):
    contexts = Contexts(weights, batch, context + args.new_tokens + 1, args)
    contexts.fill(text(contexts.vocabulary, context), batch)

    def steps(count):
        for step in range(count):
            contexts.feed([(sequence, context + step, 0) for sequence in range(batch)])

    rates = []
    steps(2)
    for _ in range(args.repeats):
        contexts.cut(batch, context)
        rates.append(batch * args.new_tokens / seconds(lambda: steps(args.new_tokens)))
    contexts.close()
    return statistics.median(rates)


def prefill(weights, context, args):
    contexts = Contexts(weights, 1, context, args)
    ids = text(contexts.vocabulary, context)
    contexts.fill(ids, 1)
    rate = context / statistics.median(seconds(lambda: contexts.fill(ids, 1)) for _ in range(args.repeats))
    contexts.close()
    return rate


def check(llama, weights, args):
    """Compares logits: a prefill of three different contexts, then four steps of all three side by side."""
    # llama.cpp's flash attention computes in f16 in places: its logits are off by some thousandths.
    args.cache, args.flash = "f32", "off"
    vocabulary, filled, new, batch = llama.config.vocab_size, 20, 4, 3
    ids = torch.tensor([text(vocabulary, filled + new + s)[s:] for s in range(batch)])
    with torch.inference_mode():
        expected = llama(ids).logits.numpy()
    contexts = Contexts(weights, batch, filled + new, args)
    found = np.empty_like(expected)
    for s in range(batch):
        found[s, :filled] = contexts.feed([(s, t, int(ids[s, t])) for t in range(filled)])
    for t in range(filled, filled + new):
        found[:, t] = contexts.feed([(s, t, int(ids[s, t])) for s in range(batch)])
    contexts.close()
    difference = float(np.abs(found - expected).max())
    row = {"check": "logits", "difference_max": difference, "logits_std": float(expected.std())}
    print(json.dumps(row), flush=True)
    # Written the other way round, it would pass where a logit is no number.
    if not difference <= 1e-3:
        raise SystemExit("the logits of llama.cpp and transformers differ")


def rows(weights, args):
    for context in args.contexts:
        row = {"phase": "prefill", "batch": 1, "context": context, "precision": args.precision}
        print(json.dumps(row | {"tokens_per_s": prefill(weights, context, args)}), flush=True)
        for batch in args.batches:
            row = {"phase": "decode", "batch": batch, "context": context, "precision": args.precision}
            print(json.dumps(row | {"tokens_per_s": measure(weights, batch, context, args)}), flush=True)


# GGML_LOG_LEVEL_ERROR of ggml.h; the Python side has no name for it.
LOG_ERROR = 4


@llama_cpp.llama_log_callback
def errors_only(level, message, _):
    if level == LOG_ERROR:
        sys.stderr.buffer.write(message)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a Hugging Face directory of a Llama; without it, random weights of --shape")
    parser.add_argument("--shape", type=numbers, default=[576, 30, 9, 3, 1536, 49152])
    parser.add_argument("--batches", type=numbers, default=[1, 8, 16, 64])
    parser.add_argument("--contexts", type=numbers, default=[512, 4096])
    parser.add_argument("--precision", choices=TYPES, default="f32", help="of the matrices")
    parser.add_argument("--cache", choices=["f16", "f32"], default="f16", help="of keys and values")
    parser.add_argument("--flash", choices=FLASH, default="auto", help="flash attention")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--check", action="store_true", help="compare logits with transformers, and measure nothing")
    args = parser.parse_args()
    if args.check and args.precision != "f32":
        parser.error("--check is of f32 weights")
    if args.model:
        llama = LlamaForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    else:
        # Flat attention would hide a wrong rotation, so the weights of a check are wider.
        llama = model(args.shape, max(args.contexts) + args.new_tokens + 1, 0.1 if args.check else 0.02)
    llama_cpp.llama_log_set(errors_only, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.gguf")
        write_gguf(llama, path, args.precision)
        weights = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not weights:
            raise SystemExit("llama.cpp refused the file")
        print(llama_cpp.llama_print_system_info().decode(), file=sys.stderr)
        if args.check:
            check(llama, weights, args)
        else:
            del llama
            rows(weights, args)
        llama_cpp.llama_model_free(weights)


if __name__ == "__main__":
    main()
