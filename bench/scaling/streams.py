"""Streams at once: what a chunk costs the gateway beside ever more other streams."""

import json
import resource
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from proxies import installed, measuring, peers
from proxies.measuring import Scenario, Target
from proxies.running import Process, free_ports

SIZES = [1, 10, 100, 1_000, 10_000]
# Chunks a second of all paced streams together: two cores carry as many however many streams they come
# on, and one stream gets one in a millisecond, which is as fine as its timer is.
RATE = 1_000
# Chunks of each stream that comes as fast as it can.
CHUNKS = 100
# Files of the gateway beside its connections.
SPARE = 500
# Seconds before a window and after it in which all streams are there already, or still.
MARGIN = 0.5
# How much longer than asked for the streams may take: what is divided by is the rate that was asked for.
LATE = 0.05

PACED, FULL, MEMORY = "paced", "full", "memory"

# As among its peers, with room for more connections.
CONFIG = peers.TIDEGATE.replace("[upstream]", "max_connections = 20_000\n[upstream]", 1)


@dataclass
class Setting:
    """A gateway that has seen nothing yet, in front of the mock upstream."""

    bench: Path
    target: Target
    work: Path

    def cpu(self) -> float:
        return self.target.peer.process.cpu()


def raise_file_limit(wanted: int) -> int:
    """Has as many files as are wanted, or permitted; the gateway has what this program has."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limits in ((wanted, max(wanted, hard)), (min(wanted, hard), hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            break
        except (OSError, ValueError):
            continue
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def sizes() -> list[int]:
    """How many streams at once: of the last as many as there may be files, since each takes two."""
    files = raise_file_limit(2 * SIZES[-1] + SPARE)
    most = max(1, (files - SPARE) // 2)
    if most < SIZES[-1]:
        installed.say(f"{most:,} streams at most: {files:,} open files are permitted")
    return [size for size in SIZES if size < most] + ([min(most, SIZES[-1])] if most > 1 else [])


def start(bench: Path, work: Path, stack: ExitStack) -> Setting:
    mock = Process([bench, "mock"], work / "mock.log", piped=True)
    stack.callback(mock.end)
    upstream = int(mock.line().rpartition(":")[2])
    port, admin = free_ports(2)
    config = work / "tidegate.toml"
    config.write_text(CONFIG % (port, admin, upstream))
    args = [installed.tidegate(), "serve", f"--config={config}", "--stateless"]
    process = Process(args, work / "log", {"TOKIO_WORKER_THREADS": str(peers.THREADS)})
    stack.callback(process.end)
    target = Target("tidegate", port, peers.Peer(port, process, "", ""))
    target.ready()
    return Setting(bench, target, work)


def paced(setting: Setting, size: int, seconds: float) -> dict:
    """CPU for a chunk while all streams are open and none begins or ends, and bytes for a stream."""
    pause = size / RATE
    # As often as each stream is due in it, all of them are.
    window = max(1, round(seconds / pause)) * pause
    chunks = 2 + int((pause + window + 2 * MARGIN) / pause + 0.999)
    args = [setting.bench, "load", f"--target=127.0.0.1:{setting.target.port}", "--stream"]
    args += [f"--connections={size}", "--body-bytes=1024", f"--chunks={chunks}"]
    args += [f"--pause={pause * 1e6:.0f}", f"--spread={pause}", "--warmup=0"]
    # Every client begins, and none again.
    args += [f"--seconds={pause + 0.9 * MARGIN}"]
    idle = setting.target.resident()
    load = Process(args, setting.work / "load.log", piped=True)
    try:
        if load.line() != "warm":
            raise measuring.Void(load.last_words())
        load.tell("go")
        time.sleep(pause + MARGIN)
        begin, before = time.monotonic(), setting.cpu()
        time.sleep(window)
        took, spent = time.monotonic() - begin, setting.cpu() - before
        resident = setting.target.resident()
        said = load.line()
        if not said:
            raise measuring.Void(load.last_words())
    finally:
        load.end()
    seen = json.loads(said)
    lasts, wanted = seen["p50"] / 1e6, (chunks - 1) * pause
    if lasts > wanted * (1 + LATE) or seen["requests"] != size:
        raise measuring.Void(f"{seen['requests']} streams took {lasts:.2f} s instead of {wanted:.2f}")
    return {PACED: spent * 1e6 / (RATE * took), MEMORY: (resident - idle) / size}


def full(setting: Setting, size: int, seconds: float) -> dict:
    """CPU for a chunk of streams that come as fast as they can, one after the other."""
    scenario = Scenario("streams", size, 1_024, chunks=CHUNKS)
    seen = measuring.window(setting.bench, setting.target, scenario, seconds, setting.work)
    return {FULL: seen["cpu"] * 1e6 / seen["streamed"]["events"]}


def measure(bench: Path, rounds: int, seconds: float) -> list[dict]:
    """Every size in turn, a gateway of its own for each window; figures of all rounds."""
    points = [{"size": size, PACED: [], FULL: [], MEMORY: []} for size in sizes()]
    for number in range(rounds):
        for point in points:
            for run in (paced, full):
                measuring.note(f"round {number + 1} of {rounds}: {point['size']} streams, {run.__name__}")
                for key, value in valid(run, bench, point["size"], seconds).items():
                    point[key].append(value)
    measuring.note("")
    return points


def valid(run, bench: Path, size: int, seconds: float) -> dict:
    """A window without a failure, if there is one in all attempts."""
    for _ in range(1 + measuring.AGAIN):
        with tempfile.TemporaryDirectory(prefix="scale-") as folder, ExitStack() as stack:
            try:
                return run(start(bench, Path(folder), stack), size, seconds)
            except measuring.Void as why:
                installed.say(f"void: {size} streams, {run.__name__}: {why}")
    return {}
