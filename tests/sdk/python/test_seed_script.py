"""The load test that the project started from, then 200 requests at once, against its limits."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from cerebras.cloud.sdk import AsyncCerebras

from harness import KEY, PATIENCE, WINDOWS, Limit

SCRIPT = Path(__file__).with_name("seed_script.py")
SEED = {
    "requests": {"minute": 120, "hour": 7_200, "day": 172_800},
    "tokens": {"minute": 1_500_000, "hour": 120_000_000, "day": 120_000_000},
}
MODEL = "glm-4.7"


def seed_limits(faster: int) -> list[Limit]:
    """The limits in the script's own document, in windows that pass so many times faster."""
    return [
        Limit(unit, limits[name], name, seconds / faster)
        for unit, limits in SEED.items()
        for name, seconds in WINDOWS.items()
    ]


def test_the_script_runs_as_without_the_gateway(start):
    own = start(limits=seed_limits(1))
    env = {"PATH": os.environ["PATH"]}
    # Both at once: the script sleeps between its requests.
    runs = [
        subprocess.Popen(
            [sys.executable, SCRIPT, KEY, url, MODEL], stdout=subprocess.PIPE, text=True, env=env
        )
        for url in own.urls
    ]
    direct, via = (run.communicate(timeout=PATIENCE)[0] for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    for output in (direct, via):
        assert "Error" not in output
        assert re.search(r"Processed: 10 jobs in [\d.]+s", output)
        assert float(re.search(r"Rate: ([\d.]+) jobs/sec", output)[1]) > 1.0
    tokens = [re.search(r"Tokens used: (\d+)", output)[1] for output in (direct, via)]
    assert tokens[0] == tokens[1]
    assert own.stats()["completed"] == 20


def test_two_hundred_requests_at_once_all_succeed(start):
    # A minute lasts six seconds: 120 go at once, the last of the other 80 four seconds later.
    own = start(limits=seed_limits(10))

    async def burst(url, key):
        async with AsyncCerebras(base_url=url, api_key=key, max_retries=0) as client:

            async def one():
                answer = await client.chat.completions.with_raw_response.create(
                    model=MODEL, messages=[{"role": "user", "content": "Hello"}], max_tokens=10
                )
                assert (await answer.parse()).usage.completion_tokens <= 10
                return answer.retries_taken

            work = (one() for _ in range(200))
            return await asyncio.gather(*work, return_exceptions=True)

    assert asyncio.run(burst(own.via, KEY)) == [0] * 200
    stats = own.stats()
    assert (stats["completed"], stats["rejected"]) == (200, 0)
    assert own.gateway.metric("tidegate_retries_total") == 0
    assert own.gateway.metric("tidegate_queue_wait_seconds_count") == 200

    direct = asyncio.run(burst(own.direct, f"{KEY}-another-account"))
    refused = [it for it in direct if isinstance(it, Exception)]
    assert refused, "without the gateway the same burst meets the limit"
    assert {type(error).__name__ for error in refused} == {"RateLimitError"}
