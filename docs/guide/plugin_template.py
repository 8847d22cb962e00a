#!/usr/bin/env python3
"""A reward in Python. Copy this file, change `score`, and name it in a config:

    [[rewards]]
    kind = "process"
    name = "concise"
    command = ["python3", "my_reward.py"]

It needs nothing but Python. The lines that it reads and writes are described in docs/guide/plugins.md.
"""

import json
import sys


def score(request):
    """Judges one answer: a number, or a number and a dictionary of named numbers for the metrics.

    The request has `prompt`, `completion`, `answer` (a text, a list of texts any of which is right, or None),
    `fields` (the other fields of the data line),
    `tokens` and `truncated`. The completion is whatever a model wrote: never run it, and expect anything in it.
    """
    words = request["completion"].split()
    answer = request["answer"]
    answers = answer if isinstance(answer, list) else [answer or ""]
    right = any(text.strip() in words[-1:] for text in answers)
    return float(right), {"words": len(words)}


def reply(request):
    """The line of the reply. An exception says that this answer cannot be judged; the run's config has the rest."""
    try:
        result = score(request)
        reward, parts = result if isinstance(result, tuple) else (result, {})
        # NaN and infinity are no rewards and no JSON: they are an exception here.
        return json.dumps({"id": request["id"], "reward": reward, "parts": parts}, allow_nan=False)
    except Exception as error:
        return json.dumps({"id": request["id"], "error": f"{type(error).__name__}: {error}"})


def main():
    # Replies go where `print` went, and a stray `print` in a library goes into the log instead.
    replies, sys.stdout = sys.stdout, sys.stderr
    # Bytes, because a request is UTF-8 whatever the locale is. The loop ends with the run.
    for line in sys.stdin.buffer:
        print(reply(json.loads(line)), file=replies, flush=True)


if __name__ == "__main__":
    main()
