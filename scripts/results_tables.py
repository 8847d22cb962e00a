#!/usr/bin/env python3
"""Makes the tables of docs/results/ and docs/design/notes/ from the raw rows in results/.

    python3 scripts/results_tables.py            # writes the tables into the pages
    python3 scripts/results_tables.py --check    # ends with an error if a page does not have them

A page marks a table by two comments. What stands between them is written by this script:

    <!-- table FOLDER[+FOLDER..]: KEY | KEY as HEADER | KEY / KEY as HEADER | .. -->
    <!-- end -->

`FOLDER` is one of results/, `KEY` one of its rows' keys. A row without any of the keys is left out.

    <!-- claims NAME -->
    <!-- end -->

is a table of the claims below, one row a claim, of the newest measurement: medians of ours and of the peer's, and the ratio; where rows have a `pair`, the ratio is
the median of the pairs' ratios, with their range.
"""

import argparse
import json
import pathlib
import re
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MARKED = re.compile(r"(<!-- (table|claims) (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

DECODE = "20261125-decode-8ff6d52"
SMALL, LARGE = "20261124-streambp-9cadf32", "20261124-streambp-40348cf"
SMOL = "576,30,9,3,1536,49152"


def step(claim, folder, shape, tokens, key, unit, peer="PyTorch, checkpointed"):
    rows = {"shape": shape, "tokens": tokens}
    return (claim, folder, {**rows, "path": "StreamBP"}, {**rows, "path": peer}, key, unit)


def decode(what, peer):
    return (f"{what}, 135 M parameters, beside {peer}", DECODE, {"program": "longhaul f32", "what": what},
            {"program": f"{peer} f32", "what": what}, "tokens_per_s", "tokens/s")


# Claim, folder, which rows are ours, which are the peer's, the key that is compared, its unit.
CLAIMS = {
    "speed": [
        ("a step of GRPO beside TRL 1.16 (three pairs)", "20261126-grpo-trl-088a00d", {"program": "longhaul"},
         {"program": "TRL"}, "trained_tokens_per_s", "trained tokens/s"),
        *[decode(what, peer) for peer in ["transformers", "llama.cpp"]
          for what in ["decode, 1 context", "decode, 16 contexts", "prefill"]],
        ("decode with bf16 weights, 1 context, beside f32", DECODE, {"program": "longhaul bf16", "what": "decode, 1 context"},
         {"program": "longhaul f32", "what": "decode, 1 context"}, "tokens_per_s", "tokens/s"),
        ("learning beside decoding (4 segments, in-flight updates), beside whole outputs in turns", "20261126-segments-2c71427",
         {"segments": 4}, {"segments": 0}, "tokens_per_s", "trained tokens/s"),
        ("the same with 2 segments", "20261126-segments-2c71427",
         {"segments": 2}, {"segments": 0}, "tokens_per_s", "trained tokens/s"),
        step("StreamBP step, 1 M parameters, 16384 tokens, beside PyTorch's checkpointing", SMALL, "128,4,4,4,512,24", 16384, "step_s", "s"),
        step("StreamBP step, 135 M parameters, 4096 tokens, the same", LARGE, SMOL, 4096, "step_s", "s"),
        step("StreamBP step, 135 M parameters, 16384 tokens, the same", "20261125-streambp-c5f5912", SMOL, 16384, "step_s", "s"),
        step("StreamBP step, 135 M parameters, 4096 tokens, beside our checkpointing", LARGE, SMOL, 4096, "step_s", "s", "checkpointed"),
    ],
    "memory": [
        step("StreamBP step, 1 M parameters, 16384 tokens, beside PyTorch's checkpointing", SMALL, "128,4,4,4,512,24", 16384, "peak_mib", "MiB"),
        step("StreamBP step, 135 M parameters, 4096 tokens, the same", LARGE, SMOL, 4096, "peak_mib", "MiB"),
        step("StreamBP step, 135 M parameters, 16384 tokens, the same", "20261125-streambp-c5f5912", SMOL, 16384, "peak_mib", "MiB"),
        step("StreamBP step, 135 M parameters, 4096 tokens, beside our checkpointing", LARGE, SMOL, 4096, "peak_mib", "MiB", "checkpointed"),
    ],
}


def rows_of(folder):
    lines = (ROOT / "results" / folder / "rows.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def shown(value):
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) and abs(value) >= 1000 else str(value)


def markdown(headers, lines):
    table = [headers, ["---"] * len(headers), *lines]
    return "".join("| " + " | ".join(line) + " |\n" for line in table)


def cell(row, expression):
    keys = [key.strip() for key in expression.split("/")] if " / " in expression else [expression]
    if any(key not in row for key in keys):
        return ""
    return shown(row[keys[0]]) if len(keys) == 1 else f"{row[keys[0]] / row[keys[1]]:.2f}"


def table(specification):
    folders, _, columns = specification.partition(": ")
    columns = [column.strip().partition(" as ") for column in columns.split("|")]
    rows = [row for folder in folders.split("+") for row in rows_of(folder)]
    lines = [[cell(row, expression) for expression, _, _ in columns] for row in rows]
    return markdown([name or expression for expression, _, name in columns], [line for line in lines if any(line)])


def claim(text, folder, ours, peers, key, unit):
    rows = [row for row in rows_of(folder) if key in row]
    pick = lambda wanted: [row for row in rows if wanted.items() <= row.items()]
    ours, peers = pick(ours), pick(peers)
    assert ours and peers, f"{folder}: no rows for {text}"
    pairs = [own[key] / peer[key] for own in ours for peer in peers if own.get("pair") == peer.get("pair")]
    if len(pairs) > 1:
        span = f"{min(pairs):.2f} to {max(pairs):.2f}"
    else:
        span = " beside ".join(f"{row['low']} to {row['high']}" for row in (ours[0], peers[0]) if "low" in row)
    medians = [statistics.median(row[key] for row in side) for side in (ours, peers)]
    date = f"{folder[:4]}-{folder[4:6]}-{folder[6:8]}"
    return [text, f"{shown(medians[0])} {unit}", f"{shown(medians[1])} {unit}", f"{statistics.median(pairs):.2f}", span, date,
            f"[{folder.rsplit('-', 1)[1]}](../../results/{folder}/rows.jsonl)"]


def made(match):
    opening, kind, specification = match.group(1, 2, 3)
    if kind == "claims":
        lines = [claim(*each) for each in CLAIMS[specification]]
        body = markdown(["what", "longhaul", "peer", "ratio", "range", "date", "raw"], lines)
    else:
        body = table(specification)
    return f"{opening}{body}{match.group(5)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compares instead of writing")
    arguments = parser.parse_args()
    stale = []
    folders = [ROOT / "docs" / "results", ROOT / "docs" / "design" / "notes"]
    for page in sorted(page for folder in folders for page in folder.glob("*.md")):
        text = page.read_text()
        new = MARKED.sub(made, text)
        if new != text:
            stale.append(str(page.relative_to(ROOT)))
            if not arguments.check:
                page.write_text(new)
    if arguments.check and stale:
        sys.exit(f"{', '.join(stale)}: tables are not those of results/; run scripts/results_tables.py")


if __name__ == "__main__":
    main()
