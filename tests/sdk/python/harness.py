"""Runs the built binary as the simulated upstream and as the gateway in front of it.

A `Stack` is one of each, on free ports of the loopback address. Stopping it checks what holds
whatever was tested: both end with exit code 0 on SIGTERM, and nothing that was planted in keys or
prompts is in the gateway's log or on its admin port, and no key is in a file of its batches.
"""

import json
import os
import re
import select
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

# Every key and prompt of these tests contains this word, and nothing else does.
PLANTED = "planted"
KEY = f"csk-{PLANTED}-4f1c77d0b2"
PROMPT = f"A {PLANTED} prompt: say something about tides."
MODEL = "demo-model"

# Long enough for a loaded machine; nothing waits for it where all is well.
PATIENCE = 60.0


@dataclass(frozen=True)
class Limit:
    """A limit, as the gateway is configured with it and as the simulator enforces it."""

    unit: str
    limit: int
    name: str
    seconds: float

    def flag(self) -> str:
        return f"--limit={self.unit}/{self.name}={self.limit}@{round(self.seconds * 1000)}ms"

    def toml(self) -> dict:
        per = f"{round(self.seconds * 1000)}ms"
        return {"unit": self.unit, "limit": self.limit, "per": per, "name": self.name}


WINDOWS = {"minute": 60, "hour": 3_600, "day": 86_400}

# They never bind.
AMPLE = [
    Limit(unit, 1_000_000_000, name, seconds)
    for unit in ("requests", "tokens")
    for name, seconds in WINDOWS.items()
]

# Answers take no time.
AT_ONCE = ("--latency=0s", "--rate=0", "--jitter=0", "--output=60")


class Process:
    """A running command of the binary; its standard error goes to a file."""

    def __init__(self, directory: Path, name: str, args: list[str], env: dict[str, str]):
        self.name = name
        self.log_path = directory / f"{name}.log"
        with self.log_path.open("wb") as log:
            self.child = subprocess.Popen(
                [binary(), *args],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Nothing of whoever runs the tests: neither a key nor a setting.
                env={"PATH": os.environ["PATH"], **env},
            )
        self.ready = self._first_line()

    def _first_line(self) -> str:
        readable, _, _ = select.select([self.child.stdout], [], [], PATIENCE)
        line = self.child.stdout.readline() if readable else ""
        if "ready" not in line:
            self.child.kill()
            self.child.wait()
            self.child.stdout.close()
            raise RuntimeError(f"{self.name} did not start: {line!r}\n{self.log()}")
        return line

    def log(self) -> str:
        """What it has written to standard error so far."""
        return self.log_path.read_text(errors="replace")

    def stop(self) -> int:
        """Asks it to end, unless it has, and returns its exit code."""
        self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise
        finally:
            self.child.stdout.close()


def binary() -> str:
    """The binary under test."""
    path = os.environ.get("TIDEGATE_BIN")
    if not path:
        raise RuntimeError("TIDEGATE_BIN must name the built binary; `make test` sets it")
    return path


class Gateway:
    """`tidegate serve` with a configuration of its own."""

    def __init__(self, directory: Path, upstream: str, config: dict, env: dict[str, str]):
        config = {
            **config,
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", **config.get("server", {})},
            "upstream": {"base_url": upstream, **config.get("upstream", {})},
            # The most talkative setting that anybody would run it with.
            "log": {"level": "debug", **config.get("log", {})},
            # Nothing else outlives a test's gateway, unless it is given a state.
            "batch": {"dir": str(directory / "batches"), **config.get("batch", {})},
            # What is made to fail is to be seen as often as it is asked for.
            "breaker": {"failures": 0, **config.get("breaker", {})},
        }
        self.batches = Path(config["batch"]["dir"])
        path = directory / "tidegate.toml"
        path.write_text(toml(config))
        state = [] if "state" in config else ["--stateless"]
        self.process = Process(directory, "gateway", ["serve", *state, "--config", str(path)], env)
        found = re.search(r"(https?://\S+)/v1 -> .* (http://[^)\s]+)\)", self.process.ready)
        self.url, self.admin = found[1], found[2]

    def page(self, path: str) -> str:
        """A page of the admin port."""
        return fetch(self.admin + path)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of `name` that carry these labels."""
        values = []
        for line in self.page("/metrics").splitlines():
            series, _, value = line.rpartition(" ")
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})?", series)
            if found and found[1] == name:
                seen = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                if labels.items() <= seen.items():
                    values.append(float(value))
        if not values:
            raise KeyError(f"{name} {labels}")
        return sum(values)

    def stop(self) -> None:
        running = self.process.child.poll() is None
        pages = [self.page(it) for it in ("/metrics", "/status", "/config")] if running else []
        assert self.process.stop() == 0, self.process.log()
        log = self.process.log()
        for text in (log, *pages):
            at = text.find(PLANTED)
            assert at < 0, f"a planted secret got out: {text[max(0, at - 200):at + 50]!r}"
        assert "panicked" not in log, log
        # Files and batches hold prompts, but nobody's key, and nobody else may read them.
        for path in (self.batches, *self.batches.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, f"{path} can be read by others"
            text = path.read_bytes() if path.is_file() else b""
            assert f"-{PLANTED}-".encode() not in text, f"a key is in {path}"


class Stack:
    """A simulated upstream and a gateway in front of it."""

    def __init__(
        self,
        directory: Path,
        *,
        limits: list[Limit] = AMPLE,
        reserve: int = 16_384,
        simulate: tuple[str, ...] = (),
        config: dict | None = None,
        env: dict[str, str] | None = None,
    ):
        # What the test says replaces the default: a flag given twice would be an error.
        flags = (f"--reserve={reserve}", *AT_ONCE, *simulate)
        paced = {flag.partition("=")[0]: flag for flag in flags}
        limiting = [limit.flag() for limit in limits]
        args = ["simulate", "--listen=127.0.0.1:0", *paced.values(), *limiting]
        self.simulator = Process(directory, "simulator", args, {})
        self.direct = re.search(r"(http://\S+)/v1", self.simulator.ready)[1]
        everyone = {
            "output_reservation": {"default": reserve},
            "limits": [limit.toml() for limit in limits],
        }
        config = {"models": {"*": everyone}, **(config or {})}
        try:
            self.gateway = Gateway(directory, self.direct, config, env or {})
        except BaseException:
            self.simulator.stop()
            raise
        self.via = self.gateway.url

    @property
    def urls(self) -> tuple[str, str]:
        """Where the API is: at the upstream itself, and through the gateway."""
        return self.direct, self.via

    def stats(self) -> dict:
        """The simulator's counts."""
        return json.loads(fetch(self.direct + "/_sim/stats"))["stats"]

    def pools(self) -> list[dict]:
        """The simulator's pools, each with its report."""
        return [pool["report"] for pool in json.loads(fetch(self.direct + "/_sim/stats"))["pools"]]

    def script(self, *faults: str) -> None:
        """The next requests meet these faults, one each."""
        self.control("faults", script=faults)

    def control(self, what: str, **body) -> None:
        """Tells the simulator."""
        fetch(f"{self.direct}/_sim/{what}", json.dumps(body).encode())

    def stop(self) -> None:
        try:
            self.gateway.stop()
        finally:
            code = self.simulator.stop()
        assert code == 0, self.simulator.log()


def fetch(url: str, body: bytes | None = None) -> str:
    with urllib.request.urlopen(url, body, timeout=PATIENCE) as answer:
        return answer.read().decode()


def wait_until(condition, what: str):
    """Polls until the condition holds, and returns what it returned."""
    deadline = time.monotonic() + PATIENCE
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"never seen: {what}"
        time.sleep(0.01)


def toml(config: dict) -> str:
    """A document of tables, one or two levels deep, and of arrays of tables."""
    lines = []

    def table(name: str, values: dict) -> None:
        lines.append(f"[{name}]")
        lines.extend(f"{key} = {inline(value)}" for key, value in values.items())

    for name, value in config.items():
        if isinstance(value, list):
            for entry in value:
                table(f"[{name}]", entry)
        elif all(isinstance(inner, dict) for inner in value.values()):
            for inner, values in value.items():
                table(f"{name}.{json.dumps(inner)}", values)
        else:
            table(name, value)
    return "\n".join(lines) + "\n"


def inline(value) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    # Strings, numbers and booleans are written as in JSON.
    return json.dumps(value)
