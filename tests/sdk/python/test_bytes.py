"""What reaches the upstream, and bodies that SDKs send only with plugins: packed, MessagePack."""

import gzip
import http.server
import json
import threading

import httpx
import msgpack
import openai
import pytest
from cerebras.cloud.sdk import Cerebras

from compare import normal, unnamed
from harness import AMPLE, KEY, MODEL, PROMPT, Gateway

REQUEST = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 12}

def to_json(request) -> bytes:
    return json.dumps(request).encode()


# By name: content type, content coding, and what makes the body.
PACKINGS = {
    "JSON": ("application/json", None, to_json),
    "JSON with a charset": ("application/json; charset=utf-8", None, to_json),
    "JSON, gzip": ("application/json", "gzip", lambda it: gzip.compress(to_json(it))),
}
for kind in ("msgpack", "x-msgpack", "vnd.msgpack"):
    PACKINGS |= {
        kind: (f"application/{kind}", None, msgpack.packb),
        f"{kind}, gzip": (
            f"application/{kind}",
            "gzip",
            lambda it: gzip.compress(msgpack.packb(it)),
        ),
    }


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", PACKINGS)
def test_a_packed_body_has_the_same_answer(stack, name, stream):
    content_type, coding, pack = PACKINGS[name]
    headers = {"content-type": content_type, "authorization": f"Bearer {KEY}"}
    if coding:
        headers["content-encoding"] = coding
    body = pack({**REQUEST, "stream": stream})

    def post(url):
        answer = httpx.post(f"{url}/v1/chat/completions", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return unnamed(answer.text) if stream else normal(answer.json())

    direct, via = map(post, stack.urls)
    assert via == direct


BROKEN = {
    "not JSON": ({"content-type": "application/json"}, b"{"),
    "not gzip": ({"content-type": "application/json", "content-encoding": "gzip"}, b"{}"),
    "not MessagePack": ({"content-type": "application/msgpack"}, b"\xc1"),
    "a list": ({"content-type": "application/json"}, b"[]"),
    "nothing": ({"content-type": "application/json"}, b""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_body_is_refused_alike(stack, name):
    headers, body = BROKEN[name]

    def post(url):
        answer = httpx.post(f"{url}/v1/chat/completions", content=body, headers=headers)
        error = answer.json()
        assert all(isinstance(value, str) for value in error.values())
        return answer.status_code, sorted(error), error["type"], error["code"]

    direct, via = map(post, stack.urls)
    assert via == direct
    assert via[0] == 400


def test_a_body_above_the_limit_is_refused(start):
    own = start(config={"server": {"max_body_bytes": "64KiB"}})
    for coding in (None, "gzip"):
        body = json.dumps({**REQUEST, "user": "x" * (64 << 10)}).encode()
        headers = {"content-type": "application/json"}
        if coding:
            body, headers["content-encoding"] = gzip.compress(body), coding
        answer = httpx.post(f"{own.via}/v1/chat/completions", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large"), coding
    assert own.stats()["started"] == 0


def test_an_answer_is_packed_only_as_the_caller_can_read_it(stack):
    headers = {"authorization": f"Bearer {KEY}", "x-sim-fault": "gzip"}
    for accepted in ("gzip", "gzip, deflate, br, zstd"):
        answer = httpx.post(
            f"{stack.via}/v1/chat/completions",
            json=REQUEST,
            headers={**headers, "accept-encoding": accepted},
        )
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.json()["usage"]["total_tokens"] > 0


# What reaches the upstream.


class Recorder(http.server.ThreadingHTTPServer):
    """An upstream that keeps what it is sent and answers everything with one completion."""

    daemon_threads = True

    def __init__(self):
        self.requests = []
        super().__init__(("127.0.0.1", 0), Recording)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever)
        self.thread.start()

    def stop(self):
        self.shutdown()
        self.thread.join()
        self.server_close()


class Recording(http.server.BaseHTTPRequestHandler):
    ANSWER = json.dumps(
        {
            "id": "chatcmpl-0",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Ebb."},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    ).encode()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        self.server.requests.append((self.path, sorted(headers), body))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(self.ANSWER)))
        self.end_headers()
        self.wfile.write(self.ANSWER)

    def log_message(self, *_):
        pass


@pytest.fixture
def recorded(tmp_path):
    """A recorder, and a gateway in front of it that holds no key."""
    recorder = Recorder()
    try:
        profile = {
            "output_reservation": {"default": 100},
            "limits": [limit.toml() for limit in AMPLE],
        }
        gateway = Gateway(tmp_path, recorder.url, {"models": {"*": profile}}, {})
        yield recorder, gateway
        gateway.stop()
    finally:
        recorder.stop()


# What is one connection's business; and codings of an answer in which nobody could read its usage.
OF_THE_HOP = {"host", "connection", "accept-encoding"}


def test_the_upstream_is_sent_what_the_sdk_sent(recorded):
    recorder, gateway = recorded
    fields = {**REQUEST, "tools": [], "extra_body": {"unknown": [1.50, "ü", None]}}
    for url in (recorder.url, gateway.url):
        with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            client.chat.completions.create(**fields, extra_headers={"x-mine": "kept"})
        with Cerebras(base_url=url, api_key=KEY, warm_tcp_connection=False) as client:
            client.chat.completions.create(**fields, extra_headers={"queue_threshold": "7"})
    direct, via = recorder.requests[:2], recorder.requests[2:]
    for (path, headers, body), (path_via, headers_via, body_via) in zip(direct, via, strict=True):
        assert path_via == path == "/v1/chat/completions"
        assert body_via == body, "byte for byte"

        def end_to_end(headers):
            return [(name, value) for name, value in headers if name not in OF_THE_HOP]

        assert end_to_end(headers_via) == end_to_end(headers)
        assert ("authorization", f"Bearer {KEY}") in headers_via


@pytest.mark.parametrize(
    ("accepted", "asked"),
    [
        ("gzip, deflate, br, zstd", "gzip, deflate"),
        ("br", "identity"),
        ("br;q=1.0, gzip;q=0.5", "gzip;q=0.5"),
        ("gzip", "gzip"),
    ],
)
def test_codings_in_which_usage_cannot_be_read_are_not_asked_for(recorded, accepted, asked):
    recorder, gateway = recorded
    headers = {
        "accept-encoding": accepted,
        "x-tidegate-max-wait": "5s",
        "connection": "x-hop",
        "x-hop": "1",
    }
    answer = httpx.post(f"{gateway.url}/chat/completions", json=REQUEST, headers=headers)
    assert answer.content == Recording.ANSWER
    [(path, headers, _)] = recorder.requests
    seen = dict(headers)
    assert path == "/v1/chat/completions"
    assert seen["accept-encoding"] == asked
    assert not [name for name in seen if name.startswith("x-tidegate-") or name == "x-hop"]
