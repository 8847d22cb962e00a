#!/usr/bin/env python3
"""Times two builds of the program in turns, and prints the median of the pairs' ratios.

    python scripts/compare_programs.py OLD NEW decode:9 streambp:7 quickstart:7

OLD and NEW are source trees, each after `cargo build --release --locked`; `decode:9` is nine pairs of `bench decode`. The older
program begins every other pair. Each value of a pair goes to --rows as a line of JSON, and a line for each measure at the end:
the ratio is that of times, above 1 where NEW is slower (of bytes for memory). Needs nothing but Python.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STREAMBP = ["bench", "streambp", "--paths", "streambp", "--tokens", "2048", "--errors=never", "--json"]
# What an older program keeps whose flags these are not.
SAME_MEMORY = ["--attention-kept-mib", "96", "--activations-kept-mib", "0"]


def run(tree, *arguments):
    """What one call prints, with the lines of JSON read."""
    done = subprocess.run([tree / "target/release/longhaul", *arguments], cwd=tree, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{tree}: {' '.join(arguments)}\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def decode(tree, _is_new, _scratch):
    rows = run(tree, "bench", "decode", "--batches", "1,16", "--contexts", "256", "--repeats", "1", "--json")
    return {f"{row['phase']}, {row['batch']} contexts, s/token": 1 / row["tokens_per_s"] for row in rows}


def streambp(tree, is_new, _scratch):
    return of_streambp("the same memory kept", tree, SAME_MEMORY if is_new else [])


def streambp_defaults(tree, _is_new, _scratch):
    return of_streambp("each program's defaults", tree, [])


def of_streambp(what, tree, flags):
    (row,) = run(tree, *STREAMBP, "--repeats", "4", *flags)
    both = row["forward_s"] + row["backward_s"]
    values = {"forward, s": row["forward_s"], "forward and backward, s": both, "peak, bytes": row["peak_bytes"]}
    return {f"streambp, {what}, {name}": value for name, value in values.items()}


def quickstart(tree, _is_new, scratch):
    folder = Path(scratch) / "run"
    shutil.rmtree(folder, ignore_errors=True)
    start = time.monotonic()
    run(tree, "train", "configs/quickstart.toml", "--run", str(folder))
    return {"quickstart, s": time.monotonic() - start}


MEASURES = {each.__name__: each for each in (decode, streambp, streambp_defaults, quickstart)}


def pairs_of(measure, trees, count, scratch):
    """For each pair the values of the older and of the newer program."""
    for number in range(count):
        values = {}
        for is_new in (False, True) if number % 2 == 0 else (True, False):
            values[is_new] = measure(trees[is_new], is_new, scratch)
        yield values[False], values[True]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=lambda path: Path(path).resolve())
    parser.add_argument("new", type=lambda path: Path(path).resolve())
    parser.add_argument("measures", nargs="+", metavar="MEASURE:PAIRS", help=", ".join(MEASURES))
    parser.add_argument("--rows", type=Path, default=Path("rows.jsonl"))
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as scratch, args.rows.open("w") as rows:
        for name, count in (each.split(":") for each in args.measures):
            pairs = pairs_of(MEASURES[name], (args.old, args.new), int(count), scratch)
            for number, (old, new) in enumerate(pairs, 1):
                for of in old:
                    found.setdefault(of, []).append((old[of], new[of]))
                    row = {"of": of, "pair": number, "old": old[of], "new": new[of], "pair_ratio": new[of] / old[of]}
                    print(json.dumps(row), file=rows, flush=True)
        for measure, pairs in found.items():
            ratios = [new / old for old, new in pairs]
            old, new = (statistics.median(values) for values in zip(*pairs))
            row = {"measure": measure, "pairs": len(pairs), "old_median": old, "new_median": new}
            row |= {"median_ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
            print(json.dumps(row), file=rows)
            print(f"{measure}: {row['median_ratio']:.3f} ({row['lowest']:.3f} to {row['highest']:.3f}), {len(pairs)} pairs")


if __name__ == "__main__":
    main()
