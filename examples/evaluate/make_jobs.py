#!/usr/bin/env python3
"""Writes jobs to evaluate a model with, in the format of the Batch API: always the same ones."""

import argparse
import json
import random

SYSTEM = "You grade answers. Reply with a mark from 0 to 10 and one sentence that says why."
TOPICS = ["tides", "photosynthesis", "compound interest", "the water cycle", "binary search"]


def job(number: int, model: str, chance: random.Random) -> dict:
    topic = chance.choice(TOPICS)
    answer = " ".join(chance.choices(["it", "rises", "falls", "because", "of", topic], k=40))
    question = f"Question {number}: explain {topic} to a pupil.\nAnswer: {answer}."
    return {
        "custom_id": f"job-{number:05}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": model,
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": question},
            ],
            # What it may cost is set aside until the answer is there: say how much you need.
            "max_completion_tokens": 20 + chance.randrange(30),
        },
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("-n", "--jobs", type=int, default=1_000)
    arguments.add_argument("-m", "--model", default="demo")
    arguments.add_argument("-o", "--output", default="jobs.jsonl")
    given = arguments.parse_args()
    chance = random.Random(7)
    with open(given.output, "w") as file:
        for number in range(given.jobs):
            file.write(json.dumps(job(number, given.model, chance)) + "\n")


if __name__ == "__main__":
    main()
