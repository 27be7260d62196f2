"""Streams that wait longer than their client's timeout: kept alive by comments that no SDK shows."""

import asyncio
import time

import cerebras.cloud.sdk
import httpx
import openai
import pytest
from cerebras.cloud.sdk import Cerebras

from compare import chunks
from harness import AMPLE, KEY, MODEL, PROMPT, Limit, wait_until

MESSAGES = [{"role": "user", "content": PROMPT}]
ONE_IN_TWO_SECONDS = [Limit("requests", 1, "minute", 2), *AMPLE[1:]]
# Shorter than the wait, and not to be confused with how long the caller is ready to wait.
TIMEOUT = 1.0

SDKS = {
    "openai": (openai, lambda url, **options: openai.OpenAI(base_url=f"{url}/v1", **options)),
    "cerebras": (cerebras.cloud.sdk, lambda url, **options: Cerebras(base_url=url, **options)),
}


def polite(**admission) -> dict:
    soon = {"heartbeat_after": "200ms", "heartbeat_every": "200ms", **admission}
    return {"admission": soon, "retry": {"max_attempts": 1}}


@pytest.fixture(params=SDKS)
def sdk(request):
    """An SDK's module, and how to make a client of it."""
    module, make = SDKS[request.param]
    clients = []

    def client(url, api_key=KEY):
        clients.append(make(url, api_key=api_key, max_retries=0, timeout=TIMEOUT))
        return clients[-1]

    yield module, client
    for made in clients:
        made.close()


def stream(client, **fields):
    return client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, **fields)


@pytest.mark.parametrize("config", [polite(), None], ids=["configured", "by default"])
def test_a_wait_longer_than_the_timeout_ends_in_the_answer(start, sdk, config):
    """By default the first comment comes at half of the timeout that the SDK tells of."""
    own, (_, make) = start(limits=ONE_IN_TWO_SECONDS, config=config), sdk
    direct, client = make(own.direct, f"{KEY}-another-account"), make(own.via)
    expected = chunks(stream(direct))
    assert chunks(stream(client)) == expected, "the first does not wait"
    began = time.monotonic()
    assert chunks(stream(client)) == expected
    assert time.monotonic() - began > TIMEOUT
    assert own.gateway.metric("tidegate_heartbeat_streams_total") == 1
    assert own.gateway.metric("tidegate_requests_total", outcome="completed") >= 2


def test_without_them_the_timeout_is_a_deadline(start, sdk):
    own, (module, make) = start(limits=ONE_IN_TWO_SECONDS, config=polite()), sdk
    client = make(own.via)
    chunks(stream(client))
    with pytest.raises(module.RateLimitError) as caught:
        stream(client, extra_headers={"x-tidegate-heartbeat": "off"})
    assert caught.value.response.json()["code"] == "wait_exceeded"


def test_the_comments_are_comments(start):
    """What the SDKs leave out, seen by a client that does not."""
    own = start(limits=ONE_IN_TWO_SECONDS, config=polite())
    body = {"model": MODEL, "messages": MESSAGES, "stream": True}
    url, auth = f"{own.via}/v1/chat/completions", {"authorization": f"Bearer {KEY}"}
    with httpx.Client(timeout=TIMEOUT, headers=auth) as client:
        plain = client.post(url, json=body).text
        waited = client.post(url, json=body)
    assert waited.headers["content-type"] == "text/event-stream"
    assert waited.headers["x-tidegate-limited-by"] == "requests/minute"
    comments, data, rest = waited.text.partition("data: ")
    lines = comments.split("\n\n")
    assert len(lines) > 3 and lines.pop() == ""
    # The upstream takes a while, too: then it is said that the request is there.
    queued = [line for line in lines if line.startswith(": queued, ")]
    assert len(queued) > 3, lines
    assert all(line.startswith(": sent, ") for line in lines[len(queued) :]), lines
    count = lambda text: text.count("\n\n")
    assert count(data + rest) == count(plain) and rest.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    "fault, code", [("status:402", "payment_required"), ("queue", "queue_exceeded")]
)
def test_an_error_of_the_upstream_after_comments_is_the_sdks_own(start, sdk, fault, code):
    own, (module, make) = start(limits=ONE_IN_TWO_SECONDS, config=polite()), sdk
    client = make(own.via)
    chunks(stream(client))
    own.script(fault)
    waiting = stream(client)
    with pytest.raises(module.APIError) as caught:
        chunks(waiting)
    assert code in str(caught.value.body), caught.value.body
    assert own.gateway.metric("tidegate_requests_total", outcome="upstream_error") == 1
    assert own.gateway.metric("tidegate_heartbeat_streams_total") == 1


def test_a_refusal_of_the_gateway_after_comments_is_the_sdks_own(start, sdk):
    models = {
        "*": {
            "max_concurrent": 1,
            "output_reservation": {"default": 16_384},
            "limits": [limit.toml() for limit in AMPLE],
        }
    }
    own, (module, make) = start(config={**polite(), "models": models}), sdk
    client = make(own.via)

    async def calls():
        async with httpx.AsyncClient(timeout=None) as other:
            headers = {"authorization": f"Bearer {KEY}", "x-sim-fault": "hang"}
            body = {"model": MODEL, "messages": MESSAGES}
            url = f"{own.via}/v1/chat/completions"
            hangs = asyncio.create_task(other.post(url, json=body, headers=headers))
            held = lambda: own.stats()["in_flight"] == 1
            await asyncio.to_thread(wait_until, held, "one at the upstream")
            wait = {"x-tidegate-max-wait": "1500ms"}
            waiting = await asyncio.to_thread(stream, client, extra_headers=wait)
            with pytest.raises(module.APIError) as caught:
                await asyncio.to_thread(chunks, waiting)
            hangs.cancel()
            return caught.value

    error = asyncio.run(calls())
    assert "wait_exceeded" in str(error.body)
    assert "was not admitted within 1s 500ms" in str(error.body)
    assert own.gateway.metric("tidegate_requests_total", outcome="wait_exceeded") == 1


def test_a_retry_of_the_sdk_has_its_old_place(start):
    """The SDK sends a refused request again by itself, and that is the one that goes next."""
    own = start(limits=[Limit("requests", 1, "minute", 3), *AMPLE[1:]])
    headers = {"x-tidegate-max-wait": "1s", "x-tidegate-heartbeat": "off"}
    with openai.OpenAI(base_url=f"{own.via}/v1", api_key=KEY, max_retries=3) as client:
        create = client.chat.completions.with_raw_response.create
        create(model=MODEL, messages=MESSAGES)
        again = create(model=MODEL, messages=MESSAGES, extra_headers=headers)
    assert again.retries_taken >= 1
    assert again.parse().usage
    assert own.gateway.metric("tidegate_places_kept_total") >= 1
    taken = own.gateway.metric("tidegate_places_taken_total")
    assert taken == again.retries_taken, "each retry came back to its place"
    assert own.stats()["rejected"] == 0
