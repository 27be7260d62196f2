"""`/metrics` after traffic of every kind: well formed by Prometheus' own tool, and all counted."""

import httpx
import openai

from compare import seen
from harness import AMPLE, KEY, MODEL, PLANTED, PROMPT, Limit, fetch, wait_until
from prometheus import promtool

MESSAGES = [{"role": "user", "content": PROMPT}]

# Each meets the gateway's one attempt; an answer that breaks is told from one that is cut.
FAULTS = [
    "status:400", "status:402", "status:500", "queue", "queue:503", "quota:requests-minute",
    "quota:tokens-day", "status:429", "blocked", "close", "reset", "upgrade", "cut", "no-usage",
    "gzip", "tiny-frames", "error-event",
]  # fmt: skip


def test_promtool_accepts_the_metrics_before_any_traffic(start):
    own = start()
    assert promtool("check", "metrics", text=own.gateway.page("/metrics")) == ""


def test_promtool_accepts_the_metrics_after_traffic_of_every_kind(start):
    limits = [*AMPLE[:3], Limit("tokens", 1_000_000, "minute", 60)]
    config = {
        "retry": {"max_attempts": 2, "backoff": "1ms", "budget_per_second": 1_000},
        "server": {"max_body_bytes": "64KiB"},
    }
    own = start(limits=limits, config=config, simulate=(f"--keys={KEY},{KEY}-2",))
    sent = 0

    def client_of(key=KEY):
        return openai.OpenAI(base_url=f"{own.via}/v1", api_key=key, max_retries=0)

    for key in (KEY, f"{KEY}-2"):
        with client_of(key) as client:
            for fault in FAULTS:
                for stream in (False, True):
                    seen(lambda: list(client.chat.completions.create(
                        model=f'{MODEL} "quoted" \\{fault}', messages=MESSAGES, stream=stream,
                        max_tokens=10, extra_headers={"x-sim-fault": fault},
                    )))  # fmt: skip
                    sent += 1
            # Each is sent again, and answered.
            own.script("500", "", "close", "", "queue", "")
            for _ in range(3):
                client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=10)
            client.models.list()
            sent += 4
    for wrong in (
        {"model": MODEL},
        {"model": MODEL, "messages": MESSAGES, "max_tokens": 2_000_000},
        {"model": MODEL, "messages": MESSAGES, "user": "x" * (64 << 10)},
        {"model": MODEL, "messages": MESSAGES, "n": "two"},
    ):
        answer = httpx.post(f"{own.via}/v1/chat/completions", json=wrong)
        assert 400 <= answer.status_code < 500
        sent += 1
    with client_of("wrong") as client:
        seen(lambda: client.models.list())
    for path in ("/v1/nothing", "/v1/tcp_warming"):
        httpx.get(own.via + path)
    httpx.get(f"{own.via}/v1/chat/completions")
    sent += 4
    try:
        httpx.post(
            f"{own.via}/v1/chat/completions",
            json={"model": MODEL, "messages": MESSAGES, "max_tokens": 10},
            headers={"x-sim-fault": "hang", "authorization": f"Bearer {KEY}"},
            timeout=0.5,
        )
    except httpx.ReadTimeout:
        sent += 1
    wait_until(lambda: own.gateway.metric("tidegate_requests_in_flight") == 0, "an idle gateway")

    text = own.gateway.page("/metrics")
    assert PLANTED not in text and "quoted" not in text, "no key and no model as sent"
    assert own.gateway.metric("tidegate_requests_total") == sent, "each counted once"
    for outcome in (
        "completed", "upstream_error", "upstream_cut", "upstream_unavailable", "client_gone",
        "invalid", "above_limit", "local",
    ):  # fmt: skip
        assert own.gateway.metric("tidegate_requests_total", outcome=outcome) > 0, outcome
    for kind in ("request_quota", "token_quota", "queue"):
        assert own.gateway.metric("tidegate_upstream_rejections_total", kind=kind) > 0, kind
    for reason in ("quota", "overload", "server_error", "broken"):
        assert own.gateway.metric("tidegate_retries_total", reason=reason) > 0, reason
    assert promtool("check", "metrics", text=text) == ""


def test_a_stream_that_ends_in_an_error_is_counted_as_such(start):
    """SDKs raise at the error and hang up, before the end of the body: it is the upstream's error
    all the same."""
    own = start()
    with openai.OpenAI(base_url=f"{own.via}/v1", api_key=KEY, max_retries=0) as client:
        for _ in range(4):
            told = seen(lambda: list(client.chat.completions.create(
                model=MODEL, messages=MESSAGES, stream=True,
                extra_headers={"x-sim-fault": "error-event:1"},
            )))  # fmt: skip
            assert told["class"] == "APIError"
    total = lambda: own.gateway.metric("tidegate_requests_total") == 4
    wait_until(total, "all four have ended")
    assert own.gateway.metric("tidegate_requests_total", outcome="stream_error") == 4


def test_the_metrics_say_what_format_they_are_in(stack):
    answer = httpx.get(f"{stack.gateway.admin}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert fetch(f"{stack.gateway.admin}/readyz") == "ready\n"
    assert fetch(f"{stack.gateway.admin}/livez") == "alive\n"
