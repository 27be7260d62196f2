#!/usr/bin/env python3
"""Evaluates jobs with plain calls of the OpenAI SDK, all at once: `sdk_calls.py JOBS OUTPUT`.

There is no semaphore, no sleep and no handling of 429: each call waits its turn in the gateway.
"""

import asyncio
import json
import os
import sys

from openai import APIError, AsyncOpenAI

from summary import read, summary


async def one(client: AsyncOpenAI, job: dict) -> dict:
    result = {"custom_id": job["custom_id"], "response": None, "error": None}
    try:
        answer = await client.chat.completions.create(**job["body"])
        result["response"] = {"status_code": 200, "body": answer.to_dict()}
    except APIError as error:
        result["error"] = {"code": error.code, "message": error.message}
    return result


async def main(jobs: str, output: str) -> None:
    client = AsyncOpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
        # Nobody else is to wait for these. A wait is not an error, so nothing needs a second try.
        default_headers={"x-tidegate-class": "batch"},
        max_retries=0,
    )
    async with client:
        results = await asyncio.gather(*(one(client, job) for job in read(jobs)))
    with open(output, "w") as file:
        file.writelines(json.dumps(result) + "\n" for result in results)
    print(summary(jobs, output))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
