"""Checks that transformers loads a directory that longhaul saved, with the tensors of the original.

    python scripts/check_saved.py ORIGINAL SAVED

Needs PyTorch and transformers (4 or 5). Compares every tensor bit for bit (half precision widened to f32,
as longhaul saves it), the parts of the config that change what is computed, and the logits of one sequence.
Exits with 1 and one line for each difference.
"""

import sys

import torch
from transformers import AutoModelForCausalLM


def load(folder):
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, torch_dtype=torch.float32, output_loading_info=True
    )
    wrong = [f"{folder}: {kind}: {keys}" for kind, keys in report.items() if keys]
    return model.eval(), wrong


def compare_tensors(original, saved):
    left, right = original.state_dict(), saved.state_dict()
    for name in sorted(left.keys() ^ right.keys()):
        yield f"{name}: only in the {'original' if name in left else 'saved'} model"
    for name in sorted(left.keys() & right.keys()):
        if left[name].shape != right[name].shape or not torch.equal(left[name], right[name]):
            yield f"{name}: differs"


def rotary(model):
    return model.model.rotary_emb.inv_freq, model.model.rotary_emb.attention_scaling


@torch.no_grad()
def compare_computation(original, saved):
    (left, left_scale), (right, right_scale) = rotary(original), rotary(saved)
    if not torch.equal(left, right) or abs(left_scale - right_scale) > 1e-12:
        yield f"rotary frequencies differ: {left}, {left_scale} against {right}, {right_scale}"
    for key in ("model_type", "tie_word_embeddings", "eos_token_id", "bos_token_id", "max_position_embeddings"):
        if getattr(original.config, key) != getattr(saved.config, key):
            yield f"{key}: {getattr(original.config, key)} against {getattr(saved.config, key)}"
    length = min(48, original.config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(original.config.vocab_size, (1, length), generator=generator)
    difference = (original(tokens).logits - saved(tokens).logits).abs().max().item()
    if difference > 0:
        yield f"logits differ by up to {difference}"


def main(original_folder, saved_folder):
    original, wrong = load(original_folder)
    saved, wrong_in_saved = load(saved_folder)
    wrong += wrong_in_saved
    wrong += compare_tensors(original, saved)
    wrong += compare_computation(original, saved)
    for line in wrong:
        print(line)
    if not wrong:
        print(f"{saved_folder}: {len(saved.state_dict())} tensors equal to {original_folder}")
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
