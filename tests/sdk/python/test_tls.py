"""The SDKs over TLS, with a certificate of an authority that only their client knows."""

import ssl
import subprocess

import httpx
import openai
import pytest

from harness import KEY, MODEL, PROMPT

MESSAGES = [{"role": "user", "content": PROMPT}]


def issue(directory):
    """A certificate for loopback that is its own authority, and its key."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", "/CN=tidegate", "-addext"),
            *("subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", key, "-out", cert),
        ],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    return cert, key


@pytest.fixture
def encrypted(start, tmp_path):
    cert, key = issue(tmp_path)
    stack = start(config={"server": {"tls": {"cert": str(cert), "key": str(key)}}})
    assert stack.via.startswith("https://127.0.0.1:")
    return stack, ssl.create_default_context(cafile=cert)


def client(stack, verify):
    http = httpx.Client(verify=verify, trust_env=False)
    return openai.OpenAI(api_key=KEY, base_url=f"{stack.via}/v1", http_client=http, max_retries=0)


def test_calls_and_streams_are_as_without(encrypted):
    stack, trusting = encrypted
    with client(stack, trusting) as sdk:
        for _ in range(3):
            answer = sdk.chat.completions.create(model=MODEL, messages=MESSAGES)
            assert answer.choices[0].message.content
        stream = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert len(pieces) > 1 and "".join(pieces)
    assert stack.gateway.metric("tidegate_tls_handshakes_total", outcome="completed") == 1
    assert stack.gateway.metric("tidegate_tls_certificate_expiry_timestamp_seconds") > 1.7e9


def test_a_client_that_does_not_know_the_authority_sends_nothing(encrypted):
    stack, _ = encrypted
    with client(stack, ssl.create_default_context()) as sdk:
        with pytest.raises(openai.APIConnectionError):
            sdk.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert stack.stats()["started"] == 0


def test_the_wrong_scheme_is_explained(encrypted):
    stack, _ = encrypted
    plain = stack.via.replace("https://", "http://")
    answer = httpx.post(f"{plain}/v1/chat/completions", json={"model": MODEL})
    assert answer.status_code == 400
    assert "this port speaks TLS" in answer.text
