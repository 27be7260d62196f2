"""What makes the alerts fire, for real: a gateway and an upstream each, and something that goes wrong.

A scenario is quiet when it is made, is pushed until its alerts fire, and released until they clear. Its
limits' windows are as short as a test wants them; what the rules count in minutes and seconds is scaled
(`prometheus.FACTOR`).
"""

import http.client
import json
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from conftest import ONCE
from harness import AMPLE, KEY, MODEL, PATIENCE, Limit, Stack, wait_until

# Seven tokens of framing and three words, by the simulator's count.
MESSAGES = [{"role": "user", "content": "one two three"}]
TOKENS = 20
BODY = {"model": MODEL, "messages": MESSAGES, "max_tokens": 10}

# Little above what a short prompt is.
TIGHT = {"bytes_per_token": 1.4, "per_message": 8, "per_request": 1}


class Load:
    """Requests one after the other from each of some threads, until it is stopped."""

    def __init__(self, url: str, *, threads: int = 1, every: float = 0.1, **body):
        self.address = url.removeprefix("http://")
        self.every = every
        self.body = {**BODY, **body}
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        while not self.over.is_set():
            pause = self.every
            try:
                body = json.dumps({key: it for key, it in self.body.items() if it is not None})
                connection.request("POST", "/v1/chat/completions", body, headers)
                answer = connection.getresponse()
                answer.read()
                # Whoever is refused does not come back at once.
                pause = pause if answer.status == 200 else max(pause, 0.05)
            except (OSError, http.client.HTTPException):
                connection.close()
                pause = max(pause, 0.05)
            self.over.wait(pause)
        connection.close()

    def stop(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE)


class Scenario:
    """A stack of its own, and the alerts that it is about."""

    alerts: tuple[str, ...] = ()
    # What differs from a stack with ample limits.
    simulate: tuple[str, ...] = ()
    limits = AMPLE

    def __init__(self, directory: Path):
        self.directory = directory
        self.load: Load | None = None
        self.stack = self.start()

    def start(self) -> Stack:
        return Stack(
            self.directory, limits=AMPLE, simulate=("--headers=none", *self.simulate), config=self.config()
        )

    def config(self) -> dict:
        return {**ONCE, "models": {"*": self.model()}, "admission": {"settle_delay": "1ms"}}

    def model(self) -> dict:
        return {
            "output_reservation": {"default": 100},
            "prompt_estimate": TIGHT,
            "limits": [self.limit(it) for it in self.limits],
        }

    def limit(self, limit: Limit) -> dict:
        return {**limit.toml(), "learn": "never"}

    @property
    def targets(self) -> list[str]:
        return [self.stack.gateway.admin.removeprefix("http://")]

    def push(self) -> None:
        raise NotImplementedError

    def release(self) -> None:
        if self.load:
            self.load.stop()

    def stop(self) -> None:
        if self.load:
            self.load.stop()
        self.stack.stop()


class FullQueue(Scenario):
    """More is asked for than every one of five limits gives, and nothing else is wrong."""

    alerts = (
        "TidegateRequestsPerMinuteHigh",
        "TidegateRequestsPerHourHigh",
        "TidegateTokensPerMinuteHigh",
        "TidegateTokensPerHourHigh",
        "TidegateTokensPerDayHigh",
    )
    # All allow the same rate, so that all of them fill; a little more tokens, as some are held for longer
    # than they are used.
    limits = [
        Limit("requests", 20, "minute", 1),
        Limit("requests", 80, "hour", 4),
        Limit("tokens", 20 * TOKENS * 11 // 10, "minute", 1),
        Limit("tokens", 80 * TOKENS * 11 // 10, "hour", 4),
        Limit("tokens", 120 * TOKENS * 11 // 10, "day", 6),
    ]

    def limit(self, limit: Limit) -> dict:
        return {**super().limit(limit), "mode": "sliding"}

    def push(self) -> None:
        self.load = Load(self.stack.via, threads=8, every=0)


class LongQueue(Scenario):
    """A queue in which requests wait for long, and in which not all have room."""

    alerts = ("TidegateQueueWaitHigh", "TidegateCallersTurnedAway")
    limits = [Limit("requests", 5, "second", 1)]

    def config(self) -> dict:
        return {**super().config(), "admission": {"max_queued": 12}}

    def push(self) -> None:
        self.load = Load(self.stack.via, threads=16, every=0)


class RunsOut(Scenario):
    """A day of two minutes of which a minute will use up everything."""

    alerts = ("TidegateQuotaRunsOut",)
    simulate = ("--output=500",)
    limits = [Limit("tokens", 60_000, "day", 120)]

    def push(self) -> None:
        # Four times as fast as it comes back.
        self.load = Load(self.stack.via, every=0.25, max_tokens=500)


class Others(Scenario):
    """Somebody else spends the account's tokens faster than they come back, as the headers show."""

    alerts = ("TidegateForeignUse",)
    theirs = Limit("tokens", 10_000, "minute", 4)
    limits = [theirs]

    def start(self) -> Stack:
        self.over = threading.Event()
        self.others = threading.Thread(target=self._spend, daemon=True)
        return Stack(self.directory, limits=[self.theirs], simulate=("--headers=matrix",), config=self.config())

    def _spend(self) -> None:
        while not self.over.wait(0.1):
            try:
                self.stack.control("spend", key=KEY, model=MODEL, tokens=400)
            except OSError:
                pass  # Nothing was left for them.

    def push(self) -> None:
        # Answers go on telling, when the others have gone, too.
        self.load = Load(self.stack.via, every=0.05)
        self.others.start()

    def release(self) -> None:
        self.over.set()

    def stop(self) -> None:
        self.over.set()
        super().stop()


class WrongMode(Scenario):
    """A limit that is configured as a bucket, while the upstream counts what went in the last window."""

    alerts = ("TidegateAttributableRejections", "TidegateModeDoubted")
    theirs = Limit("requests", 40, "minute", 4)
    limits = [theirs]

    def start(self) -> Stack:
        flags = ("--headers=none", "--semantics=sliding")
        return Stack(self.directory, limits=[self.theirs], simulate=flags, config=self.config())

    def limit(self, limit: Limit) -> dict:
        return {**super().limit(limit), "mode": "bucket"}

    def push(self) -> None:
        self.load = Load(self.stack.via, threads=4, every=0)


class LowEstimates(Scenario):
    """Answers without a limit are taken to be much shorter than they are."""

    alerts = ("TidegateEstimatesLow",)
    simulate = ("--output=400",)

    def model(self) -> dict:
        return {**super().model(), "output_reservation": {"default": 1}}

    def push(self) -> None:
        self.load = Load(self.stack.via, max_tokens=None)

    def release(self) -> None:
        self.load.body["max_tokens"] = 400


class HighEstimates(Scenario):
    """Callers name an output limit that is far above what they need."""

    alerts = ("TidegateEstimatesHigh",)

    def push(self) -> None:
        self.load = Load(self.stack.via, max_tokens=4_000)

    def release(self) -> None:
        self.load.body["max_tokens"] = 60


class FailingUpstream(Scenario):
    """The upstream answers 503, whatever it is asked."""

    alerts = ("TidegateUpstreamFailing",)

    def push(self) -> None:
        self.stack.control("faults", rates={"503": 1.0})
        self.load = Load(self.stack.via, every=0.05)

    def release(self) -> None:
        self.stack.control("faults", rates={"503": 0.0})


class FailingBatches(Scenario):
    """Batches ask for a model that the upstream does not have."""

    alerts = ("TidegateBatchRequestsFailing",)
    simulate = (f"--models={MODEL}",)

    def start(self) -> Stack:
        self.model_asked = MODEL
        self.over = threading.Event()
        self.batches = threading.Thread(target=self._submit, daemon=True)
        return super().start()

    def _submit(self) -> None:
        with httpx.Client(base_url=f"{self.stack.via}/v1", headers={"authorization": f"Bearer {KEY}"}) as client:
            while not self.over.wait(1):
                body = {**BODY, "model": self.model_asked}
                lines = (
                    {"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": body}
                    for n in range(5)
                )
                content = "\n".join(map(json.dumps, lines)).encode()
                file = client.post("/files", files={"file": ("jobs.jsonl", content)}, data={"purpose": "batch"})
                batch = {
                    "input_file_id": file.json()["id"],
                    "endpoint": "/v1/chat/completions",
                    "completion_window": "24h",
                }
                client.post("/batches", json=batch).raise_for_status()

    def push(self) -> None:
        self.model_asked = "no-such-model"
        self.batches.start()

    def release(self) -> None:
        self.model_asked = MODEL

    def stop(self) -> None:
        self.over.set()
        self.batches.join(PATIENCE)
        super().stop()


class BrokenConfig(Scenario):
    """The configuration is overwritten with something that is none, and mended."""

    alerts = ("TidegateConfigRefused",)

    def push(self) -> None:
        self.path = self.directory / "tidegate.toml"
        self.right = self.path.read_text()
        self.path.write_text(self.right + "\nnonsense = [\n")

    def release(self) -> None:
        self.path.write_text(self.right)


class Certificate(Scenario):
    """The certificate is replaced by one that is good for `days` more, and by a good one again."""

    days: int

    def config(self) -> dict:
        self.issue(365)
        tls = {name: str(self.directory / f"{name}.pem") for name in ("cert", "key")}
        return {**super().config(), "server": {"tls": tls}}

    def issue(self, days: int) -> None:
        """Puts a certificate in place that ends so many days from now, or has."""
        now = datetime.now(UTC)
        dates = [f"{now + timedelta(days=it):%Y%m%d%H%M%SZ}" for it in (days - 400, days)]
        place = self.directory / f"authority{days}"
        place.mkdir(exist_ok=True)
        (place / "index.txt").write_text("")
        (place / "authority.cnf").write_text(
            "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\nnew_certs_dir = .\ndefault_md = sha256\n"
            "policy = any\nrand_serial = yes\nx509_extensions = names\n[any]\ncommonName = supplied\n"
            "[names]\nsubjectAltName = IP:127.0.0.1\n"
        )
        new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem")
        for command in (
            ("req", *new, "-subj", "/CN=tidegate", "-out", "asked.pem"),
            (
                *("ca", "-batch", "-notext", "-selfsign", "-config", "authority.cnf", "-keyfile", "key.pem"),
                *("-startdate", dates[0], "-enddate", dates[1], "-in", "asked.pem", "-out", "cert.pem"),
            ),
        ):
            made = subprocess.run(["openssl", *command], cwd=place, capture_output=True, text=True)
            assert made.returncode == 0, made.stderr
        # Whoever looks meanwhile finds two that do not belong together, and looks again.
        for name in ("key.pem", "cert.pem"):
            (place / name).replace(self.directory / name)

    def push(self) -> None:
        self.issue(self.days)

    def release(self) -> None:
        self.issue(364)


class OldCertificate(Certificate):
    """Nobody has replaced a certificate that ends in two days."""

    alerts = ("TidegateCertificateExpiring",)
    days = 2


class ExpiredCertificate(Certificate):
    """Nobody has replaced one that ended two days ago."""

    alerts = ("TidegateCertificateExpired",)
    days = -2


class LockedStore(Scenario):
    """Something else has the database, so that nothing can be written to it."""

    alerts = ("TidegateStoreDegraded",)

    def config(self) -> dict:
        self.state = self.directory / "state"
        return {**super().config(), "state": {"dir": str(self.state)}}

    def push(self) -> None:
        self.load = Load(self.stack.via)
        self.lock = sqlite3.connect(self.state / "tidegate.db", timeout=PATIENCE, check_same_thread=False)
        self.lock.isolation_level = None
        self.lock.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        self.lock.execute("ROLLBACK")
        self.lock.close()


class LostServer(Scenario):
    """The Redis through which the quota is shared does not answer."""

    alerts = ("TidegateSharedDegraded",)

    def start(self) -> Stack:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.redis = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", "/"],
            stdout=subprocess.DEVNULL,
        )
        wait_until(self._answers, "a Redis that answers")
        return super().start()

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), PATIENCE).close()
        except OSError:
            return False
        return True

    def config(self) -> dict:
        return {**super().config(), "shared": {"url": f"redis://127.0.0.1:{self.port}", "replicas": 1}}

    def push(self) -> None:
        self.load = Load(self.stack.via)
        connected = self.stack.gateway.metric
        wait_until(lambda: connected("tidegate_shared_connections_total") > 0, "a connection")
        self.redis.send_signal(signal.SIGSTOP)

    def release(self) -> None:
        self.redis.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.redis.send_signal(signal.SIGCONT)
        try:
            super().stop()
        finally:
            self.redis.kill()
            self.redis.wait()


class HungGateway(Scenario):
    """The process stands still."""

    alerts = ("TidegateDown",)

    def push(self) -> None:
        self.stack.gateway.process.child.send_signal(signal.SIGSTOP)

    def release(self) -> None:
        self.stack.gateway.process.child.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.release()
        super().stop()


class Stalled:
    """A page that says what no gateway should: it takes a defect to push this one for real."""

    alerts = ("TidegateDispatchStalled",)

    def __init__(self, _directory: Path):
        page = self
        self.pools = 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = f"# TYPE tidegate_pools_stalled gauge\ntidegate_pools_stalled {page.pools}\n".encode()
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.targets = ["127.0.0.1:%d" % self.server.server_port]

    def push(self) -> None:
        self.pools = 1

    def release(self) -> None:
        self.pools = 0

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


SCENARIOS = (
    FullQueue,
    LongQueue,
    RunsOut,
    Others,
    WrongMode,
    LowEstimates,
    HighEstimates,
    FailingUpstream,
    FailingBatches,
    BrokenConfig,
    OldCertificate,
    ExpiredCertificate,
    LockedStore,
    LostServer,
    HungGateway,
    Stalled,
)


class World:
    """Every scenario at once, watched by one Prometheus."""

    def __init__(self, prometheus, directories):
        self.prometheus = prometheus
        self.began = time.monotonic()
        self.scenarios = {}
        try:
            for kind in SCENARIOS:
                self.scenarios[kind] = kind(directories(kind.__name__))
        except BaseException:
            self.stop()
            raise

    def targets(self) -> list[str]:
        return [target for it in self.scenarios.values() for target in it.targets]

    def push(self) -> None:
        for scenario in self.scenarios.values():
            scenario.push()

    def release(self) -> None:
        for scenario in self.scenarios.values():
            scenario.release()

    def stop(self) -> None:
        failed = []
        for scenario in self.scenarios.values():
            try:
                scenario.stop()
            except Exception as error:  # The others are to be stopped as well.
                failed.append(error)
        if failed:
            raise failed[0]
