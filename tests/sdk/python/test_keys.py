"""Callers' own keys in front of the account's one key, which the gateway holds."""

import hashlib

import httpx
import openai
import pytest
from cerebras.cloud.sdk import AuthenticationError, Cerebras

from compare import dump, seen
from conftest import ONCE
from harness import MODEL, PLANTED, PROMPT

MESSAGES = [{"role": "user", "content": PROMPT}]
ACCOUNT_KEY = f"csk-{PLANTED}-of-the-account"
TEAM_KEYS = {"team-a": f"tg-{PLANTED}-a", "team-b": f"tg-{PLANTED}-b"}


def virtual_keys():
    return [
        {"name": name, "hash": f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"}
        for name, key in TEAM_KEYS.items()
    ]


@pytest.fixture
def held(start):
    """Starts a stack whose upstream takes only the account's key, which the gateway holds."""

    def held(**config):
        return start(
            simulate=(f"--keys={ACCOUNT_KEY}=the-account",),
            config={**ONCE, "upstream": {"api_key": "env:ACCOUNT_KEY"}, **config},
            env={"ACCOUNT_KEY": ACCOUNT_KEY},
        )

    return held


def client_of(own, key):
    return openai.OpenAI(base_url=f"{own.via}/v1", api_key=key, max_retries=0)


def test_holders_of_a_key_share_the_account(held):
    own = held(keys=virtual_keys())
    answers = []
    for key in TEAM_KEYS.values():
        with client_of(own, key) as client:
            answers.append(dump(client.chat.completions.create(model=MODEL, messages=MESSAGES)))
            assert [model.id for model in client.models.list()] == [MODEL]
    assert answers[0] == answers[1]
    assert [pool["account"] for pool in own.pools()] == ["the-account"]
    assert own.pools()[0]["counters"]["admitted"] == 2
    assert own.gateway.metric("tidegate_pools") == 1


@pytest.mark.parametrize("key", [f"tg-{PLANTED}-c", ACCOUNT_KEY], ids=["unknown", "the account's"])
def test_another_key_is_refused(held, key):
    own = held(keys=virtual_keys())
    with client_of(own, key) as client:
        for call in (
            lambda: client.chat.completions.create(model=MODEL, messages=MESSAGES),
            lambda: client.completions.create(model=MODEL, prompt=PROMPT),
            lambda: client.models.list(),
        ):
            told = seen(call)
            assert (told["class"], told["code"]) == ("AuthenticationError", "wrong_api_key")
            assert all(isinstance(value, str) for value in told["body"].values())
    with Cerebras(base_url=own.via, api_key=key, max_retries=0) as client:
        with pytest.raises(AuthenticationError):
            client.chat.completions.create(model=MODEL, messages=MESSAGES)
    # Its body was not read. A client that took the connection for open would lose its next request.
    body = {"model": MODEL, "messages": MESSAGES}
    headers = {"authorization": f"Bearer {key}"}
    refused = httpx.post(f"{own.via}/v1/chat/completions", json=body, headers=headers)
    assert (refused.status_code, refused.headers["connection"]) == (401, "close")
    stats = own.stats()
    assert (stats["started"], stats["unmetered"]) == (0, 0), "the upstream has seen nothing"
    assert own.gateway.metric("tidegate_requests_total", outcome="unauthorized") == 5


def test_without_virtual_keys_everybody_uses_the_account(held):
    own = held()
    for key in ("anything", f"{PLANTED}-else"):
        with client_of(own, key) as client:
            assert client.chat.completions.create(model=MODEL, messages=MESSAGES).usage
    assert [pool["account"] for pool in own.pools()] == ["the-account"]


def test_without_a_key_of_the_gateway_each_key_is_an_account(stack):
    keys = [f"{PLANTED}-own-{name}" for name in "ab"]
    before = stack.gateway.metric("tidegate_pools")
    for key in keys:
        with client_of(stack, key) as client:
            assert client.chat.completions.create(model=MODEL, messages=MESSAGES).usage
    assert stack.gateway.metric("tidegate_pools") == before + 2
