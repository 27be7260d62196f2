"""The windows: every scenario against every proxy, in turn, and what the kernel counted meanwhile."""

import http.client
import json
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from proxies.peers import Peer
from proxies.running import PATIENCE, Process

# Seconds of load before each window: pools fill, and what is compiled while it runs is compiled.
WARMUP = 0.3
# A window with a failed request is void, and measured again so many times; so is one that did not keep
# up with its rate, since something else on the machine may have been why.
AGAIN = 2
# Seconds of quiet before memory counts as idle, and as what is left afterwards.
QUIET = 3.0
# The part of a fixed rate that has to have been answered; a proxy below it cannot keep up.
KEPT_UP = 0.95


@dataclass(frozen=True)
class Scenario:
    key: str
    # Requests at once, each on a connection of its own that is kept; connections, if there is a rate.
    connections: int
    # About as many bytes has each request's body.
    body: int
    # Requests a second; one after the other if there is none.
    rate: int | None = None
    # Events of each stream, and the microseconds between them.
    chunks: int | None = None
    pause: int | None = None

    def arguments(self) -> list[str]:
        settings = {"rate": self.rate, "chunks": self.chunks, "pause": self.pause}
        args = [f"--{name}={value}" for name, value in settings.items() if value is not None]
        args += [f"--connections={self.connections}", f"--body-bytes={self.body}"]
        return args + (["--stream"] if self.chunks else [])


SCENARIOS = [
    Scenario("1 KB", 64, 1_024),
    Scenario("32 KB", 64, 32_768),
    Scenario("one", 1, 1_024),
    Scenario("500/s", 64, 1_024, rate=500),
    Scenario("streams", 50, 1_024, chunks=100),
    Scenario("paced streams", 50, 1_024, chunks=100, pause=10_000),
]


class Void(Exception):
    """A window in which a request failed."""


@dataclass
class Target:
    """Where requests are sent: a proxy, or the upstream itself."""

    name: str
    port: int
    peer: Peer | None = None

    def resident(self) -> int | None:
        return self.peer.process.resident() if self.peer else None

    def ready(self) -> None:
        """Waits until an answer comes through; RuntimeError if none does."""
        end = time.monotonic() + PATIENCE
        while not self.answers():
            if self.peer:
                self.peer.process.check()
            if time.monotonic() > end:
                said = self.peer.process.last_words() if self.peer else ""
                raise RuntimeError(f"no answer after {PATIENCE:.0f} s: {said}")
            time.sleep(0.1)

    def answers(self) -> bool:
        body = '{"model":"bench","messages":[{"role":"user","content":"How high is the tide?"}]}'
        lines = ["content-type: application/json", "authorization: Bearer benchmark"]
        lines += self.peer.headers if self.peer else []
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = dict(line.split(": ", 1) for line in lines)
            connection.request("POST", "/v1/chat/completions", body, headers)
            answer = connection.getresponse()
            return answer.status == 200 and b"tide" in answer.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def window(bench: Path, target: Target, scenario: Scenario, seconds: float, work: Path) -> dict:
    """One run: what the client saw, and `cpu` seconds and `resident` bytes of the proxy."""
    args = [bench, "load", f"--target=127.0.0.1:{target.port}", *scenario.arguments()]
    args += [f"--seconds={seconds}", f"--warmup={WARMUP}"]
    args += [f"--header={line}" for line in (target.peer.headers if target.peer else [])]
    load = Process(args, work / "load.log", piped=True)
    # A connection that nobody answers any more would be waited for without an end.
    limit = threading.Timer(PATIENCE + seconds, load.child.kill)
    limit.start()
    try:
        if load.line() != "warm":
            raise Void(load.last_words())
        before = target.peer.process.cpu() if target.peer else None
        load.tell("go")
        said = load.line()
        after = target.peer.process.cpu() if target.peer else None
        if not said:
            raise Void(load.last_words())
        seen = json.loads(said)
        seen["cpu"] = None if before is None else after - before
        seen["resident"] = target.resident()
    finally:
        limit.cancel()
        load.end()
    if scenario.rate:
        seen["kept up"] = seen["requests"] >= KEPT_UP * scenario.rate * seconds
    if not seen["requests"]:
        raise Void("no request was answered")
    return seen


def rounds(bench: Path, targets: list[Target], args, work: Path) -> dict:
    """Samples by scenario, target and round; none where a window stayed void."""
    samples = {scenario.key: {target.name: [] for target in targets} for scenario in SCENARIOS}
    for number in range(args.rounds):
        for scenario in SCENARIOS:
            for turn in range(len(targets)):
                # Each round begins with another one, so that none always follows the same.
                target = targets[(turn + number) % len(targets)]
                note(f"round {number + 1} of {args.rounds}: {scenario.key}, {target.name}")
                sample = valid(bench, target, scenario, args.seconds, work)
                samples[scenario.key][target.name].append(sample)
    note("")
    return samples


def valid(bench: Path, target: Target, scenario: Scenario, seconds: float, work: Path):
    """A window without a failure that kept up with its rate, if there is one in all attempts."""
    sample = None
    for _ in range(1 + AGAIN):
        try:
            sample = window(bench, target, scenario, seconds, work)
        except Void as why:
            note("")
            print(f"void: {scenario.key}, {target.name}: {why}", file=sys.stderr)
            continue
        if sample.get("kept up", True):
            break
    return sample


def note(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
