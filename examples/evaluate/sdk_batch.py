#!/usr/bin/env python3
"""Evaluates jobs with the OpenAI SDK's Batch API: `sdk_batch.py JOBS OUTPUT [ERRORS]`.

You may close the lid meanwhile: it is the gateway that works, and it goes on after a restart.
"""

import os
import sys
import time

from openai import OpenAI

from summary import summary

ENDS = {"completed", "failed", "expired", "cancelled"}


def main(jobs: str, output: str, errors: str = "errors.jsonl") -> None:
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
    )
    with client, open(jobs, "rb") as file:
        uploaded = client.files.create(file=file, purpose="batch")
        batch = client.batches.create(
            input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        print(f"{batch.id} is made")
        while batch.status not in ENDS:
            time.sleep(1)
            batch = client.batches.retrieve(batch.id)
            done = batch.request_counts
            print(f"{batch.status}: {done.completed} answered, {done.failed} failed", flush=True)
        for problem in batch.errors.data if batch.errors else []:
            print(f"line {problem.line}: {problem.message}", file=sys.stderr)
        if batch.status != "completed":
            raise SystemExit(f"the batch is {batch.status}")
        for name, path in ((batch.output_file_id, output), (batch.error_file_id, errors)):
            # What an earlier run failed at is not this one's.
            content = client.files.content(name).read() if name else b""
            with open(path, "wb") as result:
                result.write(content)
    print(summary(jobs, output, errors))


if __name__ == "__main__":
    main(*sys.argv[1:])
