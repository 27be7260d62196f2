"""What waiting in the gateway looks like to a client."""

import asyncio
import time

import httpx
import openai
import pytest

from harness import AMPLE, KEY, MODEL, PROMPT, Limit, wait_until

MESSAGES = [{"role": "user", "content": PROMPT}]
FIVE_IN_THREE_SECONDS = [Limit("requests", 5, "minute", 3)]
ONE_AN_HOUR = [Limit("requests", 1, "hour", 3_600), *AMPLE[3:]]


async def burst(url, count, key=KEY):
    """So many calls at once: the retries that each took in the SDK, or its exception's class."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:

        async def one():
            raw = await client.chat.completions.with_raw_response.create(
                model=MODEL, messages=MESSAGES
            )
            return raw.retries_taken

        done = await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)
        return [type(it).__name__ if isinstance(it, Exception) else it for it in done]


def test_a_burst_above_the_limit_waits_instead_of_failing(start):
    own = start(limits=FIVE_IN_THREE_SECONDS)
    direct = asyncio.run(burst(own.direct, 8, key=f"{KEY}-another-account"))
    assert direct.count("RateLimitError") == 3
    began = time.monotonic()
    assert asyncio.run(burst(own.via, 8)) == [0] * 8
    assert time.monotonic() - began > 1, "three had to wait for 0.6 s each"
    assert own.stats()["rejected"] == 3, "only those without the gateway"
    assert own.gateway.metric("tidegate_upstream_rejections_total") == 0


def test_a_deadline_that_cannot_be_met_is_refused_at_once(start):
    """The SDK says how long it will wait; who cannot be served by then is told so now."""
    own = start(limits=ONE_AN_HOUR)
    with openai.OpenAI(base_url=f"{own.via}/v1", api_key=KEY, max_retries=0, timeout=40) as client:
        create = client.chat.completions.create
        assert create(model=MODEL, messages=MESSAGES).usage
        began = time.monotonic()
        with pytest.raises(openai.RateLimitError) as caught:
            create(model=MODEL, messages=MESSAGES)
        assert time.monotonic() - began < 20, "it did not wait for its timeout"
        error = caught.value
        assert (error.code, error.param) == ("wait_exceeded", "quota")
        assert error.response.headers["retry-after"] == "60"
        assert error.response.headers["retry-after-ms"] == "60000"
        assert float(error.response.headers["x-ratelimit-remaining-tokens-minute"]) > 0
    assert own.stats()["started"] == 1


def test_a_refusal_says_what_limited_it_and_how_long_it_waited(start):
    own = start(limits=ONE_AN_HOUR)
    body = {"model": MODEL, "messages": MESSAGES}
    url = f"{own.via}/v1/chat/completions"
    with httpx.Client(timeout=None) as client:
        assert client.post(url, json=body).status_code == 200
        # Nothing can come back within a second, so it is refused now or then.
        began = time.monotonic()
        refused = client.post(url, json=body, headers={"x-tidegate-max-wait": "1s"})
        waited = time.monotonic() - began
    assert (refused.status_code, refused.json()["code"]) == (429, "wait_exceeded")
    assert refused.headers["x-tidegate-limited-by"] == "requests/hour"
    assert int(refused.headers["x-tidegate-wait-ms"]) / 1000 <= waited + 0.1


@pytest.mark.parametrize("wait", ["soon", "10", "-1s", ""])
def test_a_wait_that_makes_no_sense_is_refused(stack, wait):
    body = {"model": MODEL, "messages": MESSAGES}
    headers = {"x-tidegate-max-wait": wait}
    answer = httpx.post(f"{stack.via}/v1/chat/completions", json=body, headers=headers)
    assert (answer.status_code, answer.json()["param"]) == (400, "x-tidegate-max-wait")


def test_a_full_queue_refuses(start):
    own = start(limits=ONE_AN_HOUR, config={"admission": {"max_queued": 1, "max_wait": "2h"}})
    body = {"model": MODEL, "messages": MESSAGES}
    url = f"{own.via}/v1/chat/completions"

    async def calls():
        async with httpx.AsyncClient(timeout=None) as client:
            assert (await client.post(url, json=body)).status_code == 200
            waiting = asyncio.create_task(client.post(url, json=body))
            await asyncio.to_thread(wait_until, lambda: depth(own) == 1, "one in the queue")
            refused = await client.post(url, json=body)
            waiting.cancel()
            return refused

    refused = asyncio.run(calls())
    assert refused.status_code == 429
    assert refused.json()["code"] == "queue_full"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    wait_until(lambda: depth(own) == 0, "an empty queue")


def test_a_client_that_gives_up_leaves_the_queue(start):
    own = start(limits=ONE_AN_HOUR, config={"admission": {"max_wait": "2h"}})

    async def calls():
        # No timeout: with one, the gateway would refuse at once what cannot be answered in time.
        async with openai.AsyncOpenAI(
            base_url=f"{own.via}/v1", api_key=KEY, max_retries=0, timeout=None
        ) as client:
            create = client.chat.completions.create
            await create(model=MODEL, messages=MESSAGES)
            waiting = [
                asyncio.create_task(create(model=MODEL, messages=MESSAGES, stream=stream))
                for stream in (False, True, False)
            ]
            await asyncio.to_thread(wait_until, lambda: depth(own) == 3, "three in the queue")
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await asyncio.to_thread(wait_until, lambda: depth(own) == 0, "an empty queue")

    asyncio.run(calls())
    assert own.gateway.metric("tidegate_requests_total", outcome="client_gone") == 3
    assert own.stats()["started"] == 1, "none of them was sent"


def test_a_timeout_of_the_connection_leaves_the_queue(start):
    own = start(limits=ONE_AN_HOUR, config={"admission": {"max_wait": "2h"}})
    body = {"model": MODEL, "messages": MESSAGES}
    url = f"{own.via}/v1/chat/completions"
    with httpx.Client(timeout=1) as client:
        assert client.post(url, json=body).status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            client.post(url, json=body)
    wait_until(lambda: depth(own) == 0, "an empty queue")
    gone = lambda: own.gateway.metric("tidegate_requests_total", outcome="client_gone") == 1
    wait_until(gone, "a caller that went away")


def test_a_gateway_that_is_stopped_refuses_who_waits(start):
    own = start(limits=ONE_AN_HOUR, config={"admission": {"max_wait": "2h"}})

    async def calls():
        async with openai.AsyncOpenAI(
            base_url=f"{own.via}/v1", api_key=KEY, max_retries=0, timeout=None
        ) as client:
            create = client.chat.completions.create
            await create(model=MODEL, messages=MESSAGES)
            waiting = asyncio.create_task(create(model=MODEL, messages=MESSAGES))
            await asyncio.to_thread(wait_until, lambda: depth(own) == 1, "one in the queue")
            own.gateway.process.child.terminate()
            with pytest.raises(openai.InternalServerError) as caught:
                await waiting
            return caught.value

    error = asyncio.run(calls())
    assert (error.status_code, error.code) == (503, "draining")
    own.gateway.process.child.wait(10)


def depth(stack) -> float:
    return stack.gateway.metric("tidegate_queue_depth")
