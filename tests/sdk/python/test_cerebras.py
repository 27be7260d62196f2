"""cerebras_cloud_sdk for Python: its base URL has no version, and making a client warms it up."""

import asyncio

import pytest
from cerebras.cloud.sdk import AsyncCerebras, Cerebras

from compare import REQUEST_ID, chunks, dump, rate_limits, seen
from conftest import ONCE
from harness import KEY, MODEL, PROMPT

MESSAGES = [{"role": "user", "content": PROMPT}]

REQUESTS = {
    "plain": {},
    "limited": {"max_completion_tokens": 10},
    "as much as the model can": {"max_completion_tokens": -1, "temperature": 0, "seed": 0},
    "two choices": {"n": 2},
    "a service tier": {"service_tier": "flex", "extra_headers": {"queue_threshold": "100"}},
}


@pytest.fixture
def clients(stack):
    made = [Cerebras(base_url=url, api_key=KEY, max_retries=0) for url in stack.urls]
    yield made
    for client in made:
        client.close()


def chat(client, **fields):
    answer = client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **fields})
    return chunks(answer) if fields.get("stream") else dump(answer)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
def test_an_answer_is_the_same(clients, fields, stream):
    direct, via = (chat(client, stream=stream, **fields) for client in clients)
    assert via == direct
    last = direct[-1] if stream else direct
    assert last["usage"]["total_tokens"] > 0
    assert last["time_info"]["total_time"] == 0, "the vendor's own field"


def test_text_completions_are_the_same(clients):
    for stream in (False, True):
        direct, via = (
            (chunks if stream else dump)(
                client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=9, stream=stream)
            )
            for client in clients
        )
        assert via == direct


def test_models_are_the_same(clients):
    direct, via = (dump(client.models.list()) for client in clients)
    assert via == direct
    assert len(via["data"]) == 2
    direct, via = (dump(client.models.retrieve(MODEL)) for client in clients)
    assert via == direct


def test_headers_are_the_same(clients):
    raws = [
        client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
        for client in clients
    ]
    direct, via = (rate_limits(raw.headers) for raw in raws)
    assert via == direct
    assert len(direct) == 6
    assert all(REQUEST_ID.fullmatch(raw.headers["x-request-id"]) for raw in raws)


ERRORS = {
    "unknown field": ({"extra_body": {"bogus": 1}}, "BadRequestError"),
    "unknown model": ({"model": "no-such-model"}, "NotFoundError"),
    "status:402": (None, "APIStatusError"),
    "status:500": (None, "InternalServerError"),
    "queue": (None, "RateLimitError"),
    "blocked": (None, "PermissionDeniedError"),
    "cut": (None, "APIConnectionError"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_the_same(clients, name):
    fields, kind = ERRORS[name]
    fields = fields if fields is not None else {"extra_headers": {"x-sim-fault": name}}
    direct, via = (seen(lambda: chat(client, **fields)) for client in clients)
    assert direct["class"] == kind
    assert via == direct


def test_an_error_in_a_stream_is_the_same(clients):
    headers = {"x-sim-fault": "error-event:1"}
    direct, via = (
        seen(lambda: chat(client, stream=True, extra_headers=headers)) for client in clients
    )
    assert "class" in direct
    assert via == direct


def test_making_a_client_is_answered_by_the_gateway_at_once(start):
    own = start(config=ONCE)
    Cerebras(base_url=own.via, api_key=KEY).close()
    assert own.gateway.metric("tidegate_requests_total", outcome="local") >= 1
    assert own.stats()["unmetered"] == 0, "the upstream is not asked"


def test_asynchronous_calls_are_the_same(stack):
    async def calls(url):
        async with AsyncCerebras(base_url=url, api_key=KEY, max_retries=0) as client:

            async def streamed(index):
                messages = [{"role": "user", "content": f"{PROMPT} {index}"}]
                stream = await client.chat.completions.create(
                    model=MODEL, messages=messages, stream=True
                )
                return [dump(chunk) async for chunk in stream]

            async def whole(index):
                messages = [{"role": "user", "content": f"{PROMPT} {index}"}]
                create = client.chat.completions.create
                return dump(await create(model=MODEL, messages=messages))

            work = [call(index) for index in range(20) for call in (whole, streamed)]
            return await asyncio.gather(*work)

    direct, via = (asyncio.run(calls(url)) for url in stack.urls)
    assert via == direct
