"""Steps of GRPO in numbers that every trainer has: `grpo_trl.py` prints its own with this, and run as a program it
reads those of a run of longhaul.

    python bench/peers/grpo_metrics.py runs/grpo_longhaul-1/metrics.jsonl

Prints one JSON object a step and one for all of them: medians without the first step (`--skip`), and as
`trained_tokens_per_s_overall` all their trained tokens over all their seconds, which says the same where steps are
alike and is the one to trust where they are not. Trained tokens are those of completions, ends of output included.
"""

import argparse
import json
import statistics


def step_row(step, seconds, tokens, mean_length):
    """One step; its seconds are from the end of the step before to its own end, whatever happens in them."""
    return {
        "step": step,
        "step_s": round(seconds, 4),
        "trained_tokens_per_s": round(tokens / seconds, 1),
        "mean_length": round(mean_length, 2),
        "trained_tokens": round(tokens),
    }


def summary(rows, skip):
    rows = rows[skip:]
    if not rows:
        raise SystemExit(f"there are no steps after the first {skip}")
    seconds, tokens = sum(row["step_s"] for row in rows), sum(row["trained_tokens"] for row in rows)
    return {
        "step_s": round(statistics.median(row["step_s"] for row in rows), 4),
        "trained_tokens_per_s": round(statistics.median(row["trained_tokens_per_s"] for row in rows), 1),
        "trained_tokens_per_s_overall": round(tokens / seconds, 1),
        "mean_length": round(statistics.median(row["mean_length"] for row in rows), 2),
        "steps": len(rows),
    }


def longhaul_row(line):
    metrics = json.loads(line)
    # A step that had nothing to learn from trained no token.
    tokens = metrics.get("training/completion_tokens", 0)
    return step_row(metrics["step"], metrics["timing_s/step"], tokens, metrics["completions/mean_length"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", help="metrics.jsonl of a run folder")
    parser.add_argument("--skip", type=int, default=1, help="first steps that are left out")
    args = parser.parse_args()
    with open(args.metrics) as lines:
        # The first line may be of a measurement before the first step.
        rows = [longhaul_row(line) for line in lines if "timing_s/step" in line]
    for row in rows:
        print(json.dumps(row))
    print(json.dumps(summary(rows, args.skip)))


if __name__ == "__main__":
    main()
