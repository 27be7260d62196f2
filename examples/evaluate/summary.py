#!/usr/bin/env python3
"""Says what came of jobs: `summary.py JOBS RESULTS...`, whichever way the results were made.

Fails if a job has no result, or more than one.
"""

import json
import sys
from pathlib import Path


def read(path: str) -> list[dict]:
    # Where nothing failed there is no file of failures.
    text = Path(path).read_text() if Path(path).exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def summary(jobs: str, *results: str) -> str:
    wanted = sorted(job["custom_id"] for job in read(jobs))
    found = [entry for path in results for entry in read(path)]
    if sorted(entry["custom_id"] for entry in found) != wanted:
        raise SystemExit(f"{len(wanted)} jobs, but {len(found)} results, or of others")
    answers = [it["response"]["body"] for it in found if good(it)]
    prompt, completion = (
        sum(answer["usage"][name] for answer in answers)
        for name in ("prompt_tokens", "completion_tokens")
    )
    return (
        f"{len(wanted)} jobs: {len(answers)} answered, {len(wanted) - len(answers)} failed\n"
        f"{prompt + completion} tokens: {prompt} of prompts, {completion} of answers"
    )


def good(entry: dict) -> bool:
    return entry.get("response") is not None and entry["response"]["status_code"] == 200


if __name__ == "__main__":
    print(summary(*sys.argv[1:]))
