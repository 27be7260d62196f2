"""openai for Python: what goes wrong is the same exception with the same contents."""

import time
import zlib

import openai
import pytest

from compare import chunks, dump, failure, rate_limits, seen
from conftest import ONCE
from harness import AMPLE, KEY, MODEL, PLANTED, PROMPT, Limit, wait_until

MESSAGES = [{"role": "user", "content": PROMPT}]


def client_of(url, **options):
    return openai.OpenAI(base_url=f"{url}/v1", **{"api_key": KEY, "max_retries": 0, **options})


@pytest.fixture
def clients(stack, request):
    """Clients with a key, and so a pool, of the test's own: an error that says that a quota is
    used up holds the pool's next requests back."""
    key = f"{KEY}-{zlib.crc32(request.node.name.encode()):x}"
    made = [client_of(url, api_key=key) for url in stack.urls]
    yield made
    for client in made:
        client.close()


def chat(client, **fields):
    answer = client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **fields})
    return chunks(answer) if fields.get("stream") else dump(answer)


def both(clients, **fields):
    """What both clients see of the same request; it must be an exception."""
    direct, via = (seen(lambda: chat(client, **fields)) for client in clients)
    assert "class" in direct, f"the upstream itself answered: {direct}"
    return direct, via


# Errors that the upstream makes, by the fault that makes it say so or by what is wrong.
PASSED_ON = {
    "unknown field": ({"extra_body": {"bogus": 1}}, "BadRequestError", 400),
    "both limits, equal": ({"max_tokens": 5, "max_completion_tokens": 5}, "BadRequestError", 400),
    "no messages": ({"messages": []}, "BadRequestError", 400),
    "a message without a role": ({"messages": [{"content": PROMPT}]}, "BadRequestError", 400),
    "unknown model": ({"model": "no-such-model"}, "NotFoundError", 404),
    "status:400": (None, "BadRequestError", 400),
    "status:401": (None, "AuthenticationError", 401),
    "status:402": (None, "APIStatusError", 402),
    "status:403": (None, "PermissionDeniedError", 403),
    "blocked": (None, "PermissionDeniedError", 403),
    "status:408": (None, "APIStatusError", 408),
    "status:409": (None, "ConflictError", 409),
    "status:413": (None, "APIStatusError", 413),
    "status:422": (None, "UnprocessableEntityError", 422),
    "status:500": (None, "InternalServerError", 500),
    "status:502": (None, "InternalServerError", 502),
    "status:503": (None, "InternalServerError", 503),
    "queue": (None, "RateLimitError", 429),
    "queue:503": (None, "InternalServerError", 503),
    "quota:requests-minute": (None, "RateLimitError", 429),
    "quota:tokens-day": (None, "RateLimitError", 429),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", PASSED_ON)
def test_an_error_of_the_upstream_is_the_same(clients, name, stream):
    fields, kind, status = PASSED_ON[name]
    fields = fields if fields is not None else {"extra_headers": {"x-sim-fault": name}}
    direct, via = both(clients, stream=stream, **fields)
    assert (direct["class"], direct["status"]) == (kind, status)
    assert via == direct


def test_the_headers_of_a_refusal_are_the_same(clients):
    def headers(client):
        with pytest.raises(openai.RateLimitError) as caught:
            chat(client, extra_headers={"x-sim-fault": "quota:tokens-minute"})
        return rate_limits(caught.value.response.headers)

    direct, via = map(headers, clients)
    assert via == direct
    assert len(direct) == 6


def test_a_wrong_key_is_the_same(start):
    own = start(simulate=(f"--keys={PLANTED}-right",), config=ONCE)
    for call in (chat, lambda client: dump(client.models.retrieve(MODEL))):
        clients = [client_of(url) for url in own.urls]
        direct, via = (seen(call, client) for client in clients)
        assert (direct["class"], direct["code"]) == ("AuthenticationError", "wrong_api_key")
        assert via == direct
        for client in clients:
            client.close()
    with client_of(own.via, api_key=f"{PLANTED}-right") as right:
        assert chat(right)["usage"]


def test_an_unknown_model_is_not_retrieved(clients):
    direct, via = (seen(client.models.retrieve, "no-such-model") for client in clients)
    assert direct["class"] == "NotFoundError"
    assert via == direct


# Errors that the gateway makes itself, in words of its own.


def alike(direct, via, *, param=True):
    """Same exception, status, type and code; the message is the gateway's own."""
    keys = ["class", "status", "type", "code"] + (["param"] if param else [])
    assert {key: via[key] for key in keys} == {key: direct[key] for key in keys}
    assert via["body"].keys() == direct["body"].keys()
    assert all(isinstance(value, str) for value in via["body"].values())
    assert PLANTED not in via["message"]


def test_two_different_token_limits_are_refused_alike(clients):
    direct, via = both(clients, max_tokens=5, max_completion_tokens=6)
    # Which of the two fields is at fault is a matter of taste.
    alike(direct, via, param=False)
    assert via["class"] == "BadRequestError"


@pytest.mark.parametrize(
    "fields", [{"model": ""}, {"model": 7}, {"n": 0}, {"max_tokens": "five"}], ids=str
)
def test_a_field_of_the_wrong_kind_is_refused_alike(clients, fields):
    direct, via = both(clients, **fields)
    alike(direct, via)
    assert via["class"] == "BadRequestError"


def test_an_unknown_path_is_refused_alike(clients):
    direct, via = (
        seen(lambda: client.post("/responses", body={}, cast_to=object)) for client in clients
    )
    assert direct["class"] == "NotFoundError"
    alike(direct, via)


# Broken answers.


@pytest.mark.parametrize("fault", ["cut:0", "cut:2", "error-event:0", "error-event:2"])
def test_a_broken_stream_is_the_same(clients, fault):
    def call(client):
        got = []
        with pytest.raises(Exception) as caught:
            with client.chat.completions.create(
                model=MODEL, messages=MESSAGES, stream=True, extra_headers={"x-sim-fault": fault}
            ) as stream:
                for chunk in stream:
                    got.append(dump(chunk))
        return got, failure(caught.value)

    direct = call(clients[0])
    assert len(direct[0]) == 1 + int(fault[-1]), "all that was sent before it broke"
    # What was sent last and the break can meet in the gateway, or not: a matter of microseconds.
    for attempt in range(40):
        assert call(clients[1]) == direct, attempt


def test_a_broken_answer_is_the_same(clients):
    direct, via = both(clients, extra_headers={"x-sim-fault": "cut"})
    assert via == direct
    assert direct["class"] == "APIConnectionError"


@pytest.mark.parametrize("fault", ["close", "reset"])
def test_a_connection_that_breaks_before_the_answer_is_a_502(clients, fault):
    """The one difference: the caller's own connection is whole, so the gateway says what broke."""
    direct, via = both(clients, extra_headers={"x-sim-fault": fault})
    assert direct["class"] == "APIConnectionError"
    assert (via["class"], via["status"]) == ("InternalServerError", 502)
    assert (via["type"], via["code"]) == ("server_error", "upstream_broken")


def test_an_upstream_that_is_not_there_is_a_502(start):
    own = start(config={**ONCE, "upstream": {"base_url": "http://127.0.0.1:9"}})
    with client_of(own.via) as client:
        via = seen(lambda: chat(client))
    assert (via["class"], via["code"]) == ("InternalServerError", "upstream_unreachable")


# Time and retries.


def test_a_client_that_times_out_sees_the_same(stack):
    for url in stack.urls:
        with client_of(url, timeout=0.3) as client:
            told = seen(lambda: chat(client, extra_headers={"x-sim-fault": "hang"}))
        assert told["class"] == "APITimeoutError"
    idle = lambda: stack.gateway.metric("tidegate_requests_in_flight") == 0
    wait_until(idle, "the gateway lets go of a request whose caller has gone")


def test_what_a_retry_can_cure_the_caller_does_not_see(start):
    own = start(config={"retry": {"backoff": "10ms"}})
    cured = ["status:500", "queue", "status:503", "quota:requests-minute", "close", "reset"]
    with client_of(own.via) as client:
        own.script(*cured)
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
    assert raw.retries_taken == 0, "the SDK did not have to"
    assert own.gateway.metric("tidegate_retries_total") == len(cured)
    assert own.gateway.metric("tidegate_requests_total", outcome="completed") == 1


def test_a_request_above_the_limit_is_refused_at_once_and_not_sent_again(start):
    limits = [*AMPLE[:3], Limit("tokens", 1_000, "minute", 60)]
    own = start(limits=limits, reserve=100)
    began = time.monotonic()
    with client_of(own.via, max_retries=2) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            chat(client, max_completion_tokens=2_000)
        told = failure(caught.value)
        assert (told["status"], told["code"], told["param"]) == (413, "above_limit", "quota")
        assert "1000" in told["message"] and "max_completion_tokens" in told["message"]
        assert own.gateway.metric("tidegate_requests_total", outcome="above_limit") == 1
        assert own.stats()["started"] == 0, "the upstream has not seen it"
        assert time.monotonic() - began < 10, "the quota's minute was not waited for"
        assert chat(client, max_completion_tokens=20)["usage"], "a smaller one fits"
