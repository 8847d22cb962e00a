#!/usr/bin/env python3
"""A reward without a meaning: a hash of the completion as a number from 0 to 1, so that every trainer gives the same
completion the same reward, and the rewards of a group differ.

As a plugin (docs/guide/plugins.md) it serves `grpo_longhaul.toml`; `grpo_trl.py` imports `reward`.
"""

import hashlib
import json
import sys


def reward(completion):
    digest = hashlib.sha256(completion.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def main():
    for line in sys.stdin.buffer:
        request = json.loads(line)
        print(json.dumps({"id": request["id"], "reward": reward(request["completion"])}), flush=True)


if __name__ == "__main__":
    main()
