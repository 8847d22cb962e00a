#!/usr/bin/env python3
"""The quickstart's own judge once more, as a plugin: a completion is right if what follows its last `#` is the digit
that the machine of its prompt ends with.

    cargo run --release -- train configs/quickstart.toml --set learner.advantage.surrogates=ignore \\
        --set 'rewards=[{kind="process", correctness=true, command=["python3", "examples/machine_reward.py"]}]'

docs/guide/plugins.md describes the lines that go in and out.
"""

import json
import sys

APPLY = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def result(prompt):
    """`4+3*2-5=` from left to right, modulo 10."""
    register, rest = int(prompt[0]), prompt.removesuffix("=")[1:]
    for operation, operand in zip(rest[::2], rest[1::2]):
        register = APPLY[operation](register, int(operand)) % 10
    return register


def score(request):
    _, mark, answer = request["completion"].rstrip().rpartition("#")
    right = mark == "#" and answer == str(result(request["prompt"]))
    return float(right), {"marked": float(mark == "#")}


def main():
    for line in sys.stdin.buffer:
        request = json.loads(line)
        reward, parts = score(request)
        print(json.dumps({"id": request["id"], "reward": reward, "parts": parts}), flush=True)


if __name__ == "__main__":
    main()
