"""openai for Python: answers through the gateway equal those of the upstream itself."""

import asyncio

import openai
import pytest

from compare import REQUEST_ID, chunks, dump, normal, rate_limits, unnamed
from harness import KEY, MODEL, PROMPT, wait_until

MESSAGES = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": PROMPT},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "tide_at",
            "description": "The tide at a place.",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        },
    }
]

# Each asks for something else of the answer.
REQUESTS = {
    "plain": {},
    "limited": {"max_completion_tokens": 10},
    "limited, old name": {"max_tokens": 10},
    "as much as the model can": {"max_completion_tokens": -1, "temperature": 0, "seed": 0},
    "three choices": {"n": 3, "max_completion_tokens": 25},
    "tools": {"tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": False},
    "parts": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}],
    },
    "not ASCII": {"messages": [{"role": "user", "content": f"{PROMPT} Ebbe 🌊, 潮汐"}]},
    "vendor fields": {"extra_body": {"clear_thinking": True}, "service_tier": "flex"},
    "cached": {"extra_headers": {"x-sim-cached-tokens": "5"}},
}


@pytest.fixture
def clients(stack):
    """A client of the upstream itself and one of the gateway."""
    made = [openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) for url in stack.urls]
    yield made
    for client in made:
        client.close()


def chat(client, **fields):
    return client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **fields})


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
def test_an_answer_is_the_same(clients, fields):
    direct, via = (dump(chat(client, **fields)) for client in clients)
    assert via == direct
    assert direct["usage"]["total_tokens"] > 0
    assert len(direct["choices"]) == fields.get("n", 1)
    assert "time_info" in direct, "fields that the SDK does not know are there too"


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
def test_a_stream_is_the_same(clients, fields):
    direct, via = (chunks(chat(client, stream=True, **fields)) for client in clients)
    assert via == direct
    assert len(direct) > 3
    assert direct[-1]["usage"]["completion_tokens"] > 0, "the last chunk tells the usage"
    ends = [choice["finish_reason"] for chunk in direct for choice in chunk["choices"]]
    wanted = "length" if {"max_tokens", "max_completion_tokens"} & fields.keys() else "stop"
    if fields.get("max_completion_tokens") == -1:
        wanted = "stop"
    assert [end for end in ends if end] == [wanted] * fields.get("n", 1)


@pytest.mark.parametrize("faults", ["gzip", "tiny-frames", "gzip,tiny-frames", "no-usage"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_odd_transfer_is_the_same(clients, faults, stream):
    def call(client):
        answer = chat(client, stream=stream, extra_headers={"x-sim-fault": faults})
        return chunks(answer) if stream else dump(answer)

    direct, via = map(call, clients)
    assert via == direct


def test_a_stream_is_the_same_line_by_line(clients):
    def lines(client):
        with client.chat.completions.with_streaming_response.create(
            model=MODEL, messages=MESSAGES, stream=True
        ) as answer:
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            return [unnamed(line) for line in answer.iter_lines()]

    direct, via = map(lines, clients)
    assert via == direct
    assert [line for line in direct if line][-1] == "data: [DONE]"


def test_a_stream_arrives_as_it_is_made_and_ends_when_the_caller_goes(start):
    slow = start(simulate=("--rate=20", "--output=200", "--chunk-tokens=2"))
    with openai.OpenAI(base_url=f"{slow.via}/v1", api_key=KEY, max_retries=0) as client:
        with chat(client, stream=True) as stream:
            texts = [next(stream).choices[0].delta.content for _ in range(3)]
            assert all(texts[1:]), "words have come"
            assert slow.stats()["in_flight"] == 1, "ten seconds before the upstream is done"
        wait_until(lambda: slow.stats()["aborted"] == 1, "the upstream sees the caller go")
        gone = lambda: slow.gateway.metric("tidegate_requests_total", outcome="client_gone") == 1
        wait_until(gone, "the gateway counts it")


def test_text_completions_are_the_same(clients):
    def call(client):
        return dump(client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=20, n=2))

    direct, via = map(call, clients)
    assert via == direct
    assert [choice["finish_reason"] for choice in direct["choices"]] == ["length"] * 2


def test_streams_of_text_completions_are_the_same(clients):
    direct, via = (
        chunks(client.completions.create(model=MODEL, prompt=PROMPT, stream=True))
        for client in clients
    )
    assert via == direct
    assert direct[-1]["usage"]["total_tokens"] > 0


def test_models_are_the_same(clients):
    direct, via = ([dump(model) for model in client.models.list()] for client in clients)
    assert via == direct
    assert [model["id"] for model in via] == ["demo-model", "other-model"]
    direct, via = (dump(client.models.retrieve("other-model")) for client in clients)
    assert via == direct


def test_headers_are_the_same(clients):
    raws = [
        client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
        for client in clients
    ]
    direct, via = (rate_limits(raw.headers) for raw in raws)
    assert via == direct
    assert sorted(direct) == [
        f"x-ratelimit-{what}-{which}"
        for what in ("limit", "remaining", "reset")
        for which in ("requests-day", "tokens-minute")
    ]
    for raw in raws:
        assert REQUEST_ID.fullmatch(raw.headers["x-request-id"]), "the upstream's own"
        assert raw.parse()._request_id == raw.headers["x-request-id"]
        assert raw.headers["content-type"] == "application/json"
        assert raw.retries_taken == 0
    own = {name for name in raws[1].headers if name.startswith("x-tidegate-")}
    assert {"x-tidegate-wait-ms", "x-tidegate-estimated-tokens"} <= own
    direct, via = ({name for name in raw.headers} for raw in raws)
    assert via - direct == own, "nothing else is added"
    assert direct - via == set(), "nothing is lost"


def test_a_base_url_without_a_version_works(stack, clients):
    direct = dump(chat(clients[0]))
    for prefix in ("", "/v1", "/v1/v1"):
        with openai.OpenAI(base_url=stack.via + prefix, api_key=KEY, max_retries=0) as client:
            assert dump(chat(client)) == direct, prefix


def test_asynchronous_calls_are_the_same(stack):
    async def calls(url):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            prompts = [f"{PROMPT} {index}" for index in range(20)]

            async def whole(prompt):
                messages = [{"role": "user", "content": prompt}]
                return dump(await client.chat.completions.create(model=MODEL, messages=messages))

            async def streamed(prompt):
                messages = [{"role": "user", "content": prompt}]
                stream = await client.chat.completions.create(
                    model=MODEL, messages=messages, stream=True
                )
                async with stream:
                    return [dump(chunk) async for chunk in stream]

            work = [whole(prompt) for prompt in prompts] + [streamed(prompt) for prompt in prompts]
            models = [dump(model) async for model in client.models.list()]
            return normal(models), await asyncio.gather(*work)

    direct, via = (asyncio.run(calls(url)) for url in stack.urls)
    assert via == direct
    texts = {answer["choices"][0]["message"]["content"] for answer in direct[1][:20]}
    assert len(texts) == 20, "no two prompts have the same answer"
