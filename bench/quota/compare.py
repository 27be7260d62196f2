"""What becomes of a quota under the usual ways to keep to it: bench/quota/run [OPTIONS].

Every way has a simulated upstream of its own, with the limits that it has without flags: six windows that
refill like buckets, of which requests a minute (120) or tokens a minute (1.5 million) bind. All run at once,
in real time, so that a busy machine is the same for all. In each, three tenants ask for more than there is:
one with forty callers, two with ten each; a caller asks again as soon as it has an answer or an error.

  used        of the quota that came up in the time measured, how much was spent: the largest over the limits
  429s        refusals by the upstream, in the time measured
  failed      calls that ended in an error, after all retries that the way makes
  wait        from wanting an answer to having it, less what an answer takes when nobody else asks
  fairness    Jain's index over what the three tenants got; 1 is the same for all, a third is all for one
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from recipes import RECIPES

HERE = Path(__file__).resolve().parent
BINARY = os.environ["TIDEGATE"]
# Words of a prompt (the simulator counts each as a token) and the most tokens of an answer.
WORKLOADS = {"requests bind": (2_000, 500), "tokens bind": (20_000, 500)}
REQUESTS_A_MINUTE, TOKENS_A_MINUTE = 120, 1_500_000
# The tenants' callers. Their quotas' initial contents go in the first seconds of the warm-up.
TENANTS = {"a": 40, "b": 10, "c": 10}


def get(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


class Way:
    """One way to keep to the quota, under one workload, before an upstream of its own."""

    def __init__(self, name: str, workload: str, folder: Path):
        self.name, self.workload, self.folder = name, workload, folder
        self.children = []

    def log(self) -> str:
        """What the last program that was started said of its troubles."""
        return (self.folder / f"{len(self.children) - 1}.log").read_text()

    def start(self, *command: str, **more) -> subprocess.Popen:
        log = open(self.folder / f"{len(self.children)}.log", "w")
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, **more)
        self.children.append(child)
        return child

    def started(self, *command: str) -> str:
        """Starts a program of ours and gives the URL that it says it is ready at."""
        line = self.start(*command).stdout.readline()
        found = re.search(r"(http://\S+)/v1", line)
        if not found:
            raise SystemExit(f"{command[1]} did not start: {line}")
        return found[1]

    def prepare(self, seed: int) -> None:
        self.folder.mkdir()
        self.upstream = self.started(
            *(BINARY, "simulate", "--listen=127.0.0.1:0", "--output=300..500", f"--seed={seed}")
        )
        self.url = RECIPES[self.name].serve(self)

    def work(self, minutes: float, warm_up: float) -> None:
        words, most = WORKLOADS[self.workload]
        told = {
            "recipe": self.name, "url": self.url, "words": words, "most": most, "tenants": TENANTS,
            "seconds": warm_up + 60 * minutes, "warm_up": warm_up,
            "requests_a_minute": REQUESTS_A_MINUTE, "tokens_a_minute": TOKENS_A_MINUTE,
        }
        self.callers = self.start(
            sys.executable, str(HERE / "recipes.py"), json.dumps(told), cwd=self.folder
        )

    def stats(self) -> dict:
        return {"at": time.monotonic(), **get(f"{self.upstream}/_sim/stats")}

    def stop(self) -> None:
        for child in reversed(self.children):
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            child.stdout.close()


def spent(stats: dict) -> tuple[int, int]:
    """Requests and tokens that an upstream has charged, in all pools."""
    counters = [pool["report"]["counters"] for pool in stats["pools"]]
    tokens = sum(it["tokens_used"] + it["tokens_held"] for it in counters)
    return sum(it["admitted"] for it in counters), tokens


def quantile(values: list[float], share: float) -> float:
    values = sorted(values)
    return values[min(len(values) - 1, math.ceil(share * len(values)) - 1)] if values else math.nan


def row(way: Way, before: dict, after: dict, said: dict, alone: float) -> dict:
    minutes = (after["at"] - before["at"]) / 60
    requests, tokens = (late - early for early, late in zip(spent(before), spent(after)))
    used = max(requests / REQUESTS_A_MINUTE, tokens / TOKENS_A_MINUTE) / minutes
    done = [len(said["waits"][tenant]) for tenant in TENANTS]
    waits = [max(0.0, it - alone) for all in said["waits"].values() for it in all]
    squares = len(done) * sum(it * it for it in done)
    return {
        "way": way.name,
        "workload": way.workload,
        "minutes": round(minutes, 2),
        "used": round(used, 4),
        "upstream_429s": after["stats"]["rejected"] - before["stats"]["rejected"],
        "failed": said["failed"],
        "done": sum(done),
        "wait_p50_s": round(quantile(waits, 0.5), 2),
        "wait_p99_s": round(quantile(waits, 0.99), 2),
        "jain": round(sum(done) ** 2 / squares, 3) if squares else 0.0,
        "errors": said["errors"],
    }


def table(rows: list[dict]) -> str:
    lines = []
    for workload in WORKLOADS:
        lines += [
            f"**{workload}**\n",
            "| way | quota used | 429s by the upstream | calls failed | answers | wait p50 | p99 | fairness |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for it in (it for it in rows if it["workload"] == workload):
            lines.append(
                f"| {it['way']} | {100 * it['used']:.1f} % | {it['upstream_429s']:,} | {it['failed']:,} | "
                f"{it['done']:,} | {it['wait_p50_s']:.1f} s | {it['wait_p99_s']:.1f} s | {it['jain']:.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


def measure(ways: list[Way], minutes: float, warm_up: float) -> list[dict]:
    for seed, way in enumerate(ways):
        way.prepare(seed)
    for way in ways:
        way.work(minutes, warm_up)
    for way in ways:
        # They say so when their imports are done and the first callers begin.
        if way.callers.stdout.readline().strip() != "begun":
            raise SystemExit(f"{way.name}: its callers did not start: {way.log()}")
    time.sleep(warm_up)
    before = [way.stats() for way in ways]
    time.sleep(60 * minutes)
    after = [way.stats() for way in ways]
    rows = []
    for way, early, late in zip(ways, before, after, strict=True):
        said = json.loads(way.callers.communicate()[0])
        rows.append(row(way, early, late, said, alone=min(map(min, filter(None, said["waits"].values())), default=0.0)))
    return rows


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--minutes", type=float, default=10.0, help="time measured (10)")
    options.add_argument("--warm-up", type=float, default=90.0, help="seconds before it (90)")
    options.add_argument("--only", nargs="*", choices=list(RECIPES), help="ways to compare (all)")
    options.add_argument("--json", type=Path, help="where to write the figures")
    options = options.parse_args()
    names = options.only or list(RECIPES)
    with tempfile.TemporaryDirectory() as folder:
        ways = [
            Way(name, workload, Path(folder) / f"{index}-{at}")
            for index, name in enumerate(names)
            for at, workload in enumerate(WORKLOADS)
        ]
        try:
            rows = measure(ways, options.minutes, options.warm_up)
        finally:
            for way in ways:
                way.stop()
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    ours = [it for it in rows if it["way"] == "tidegate"]
    short = [it for it in ours if it["upstream_429s"] or it["used"] < 0.995 or it["failed"]]
    for it in short:
        print(f"short of the aim: {it}", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
