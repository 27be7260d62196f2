"""What the samples come to: figures, ratios, and whether Tidegate keeps to its bars."""

import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

OURS = "tidegate"
# What a cell says instead of a figure.
VOID, SLOW, NONE = "void", "too slow", "-"


@dataclass(frozen=True)
class Figure:
    key: str
    label: str
    scenario: str
    value: Callable[[dict], float]
    # Over what is measured in the same round without a proxy.
    added: bool = False
    # Of the proxy's process: there is none without a proxy.
    own: bool = False
    digits: int = 1


def cpu(sample: dict) -> float:
    return sample["cpu"] * 1e6 / sample["requests"]


def chunk_cpu(sample: dict) -> float:
    return sample["cpu"] * 1e6 / sample["streamed"]["events"]


def streamed(name: str, unit: float = 1.0) -> Callable[[dict], float]:
    return lambda sample: sample["streamed"][name] / unit


def rate(sample: dict) -> float:
    return sample["requests"] / sample["seconds"]


FIGURES = [
    Figure("rps 1 KB", "64 at once, 1 KB: requests/s", "1 KB", rate, digits=0),
    Figure("cpu 1 KB", "64 at once, 1 KB: CPU µs/request", "1 KB", cpu, own=True),
    Figure("rps 32 KB", "64 at once, 32 KB: requests/s", "32 KB", rate, digits=0),
    Figure("cpu 32 KB", "64 at once, 32 KB: CPU µs/request", "32 KB", cpu, own=True),
    Figure("one p50", "1 at once: p50 added, µs", "one", lambda it: it["p50"], added=True, digits=0),
    Figure("one p99", "1 at once: p99 added, µs", "one", lambda it: it["p99"], added=True, digits=0),
    Figure("500 p50", "500/s: p50 added, µs", "500/s", lambda it: it["p50"], added=True, digits=0),
    Figure("500 p99", "500/s: p99 added, µs", "500/s", lambda it: it["p99"], added=True, digits=0),
    Figure("500 cpu", "500/s: CPU µs/request", "500/s", cpu, own=True),
    Figure(
        "chunks",
        "50 streams: chunks/s",
        "streams",
        lambda it: it["streamed"]["events"] / it["seconds"],
        digits=0,
    ),
    Figure("chunk cpu", "50 streams: CPU µs/chunk", "streams", chunk_cpu, own=True, digits=2),
    Figure(
        "first p50",
        "50 paced streams: first chunk p50 added, µs",
        "paced streams",
        streamed("first_p50"),
        added=True,
        digits=0,
    ),
    Figure("gap p99", "50 paced streams: gap p99, ms", "paced streams", streamed("gap_p99", 1e3)),
    Figure(
        "paced cpu", "50 paced streams: CPU µs/chunk", "paced streams", chunk_cpu, own=True, digits=2
    ),
]
MEMORY = [
    ("idle", "memory, idle: MiB"),
    ("loaded", "memory, most after a window: MiB"),
    ("after", "memory, afterwards: MiB"),
]


@dataclass(frozen=True)
class Bar:
    """What Tidegate has to keep to: a figure, times that of another one, or as it is."""

    key: str
    limit: float
    other: str | None = None
    at_least: bool = False


BARS = [
    *(
        Bar(f"cpu {size}", limit, other)
        for size in ("1 KB", "32 KB")
        for other, limit in [
            ("bare", 1.15),
            ("nginx", 1.6),
            ("envoy", 0.6),
            ("portkey", 1 / 35),
            ("litellm", 1 / 300),
        ]
    ),
    Bar("rps 1 KB", 0.9, "bare", at_least=True),
    Bar("rps 32 KB", 0.9, "bare", at_least=True),
    Bar("one p50", 60.0),
    Bar("chunk cpu", 1.2, "bare"),
    Bar("paced cpu", 1.2, "bare"),
    Bar("first p50", 200.0),
    Bar("500 cpu", 1.0, "bare"),
]


class Results:
    """All samples, and what follows from them."""

    def __init__(self, samples: dict, memory: dict, names: list[str]):
        self.samples, self.memory, self.names = samples, memory, names
        self.labels = {figure.key: figure.label for figure in FIGURES}
        self.values = {
            figure.key: {name: self.of_rounds(figure, name) for name in names} for figure in FIGURES
        }

    def of_rounds(self, figure: Figure, name: str) -> list[float] | str:
        """The figure in each round, or why there is none."""
        if name == "direct" and (figure.own or figure.added):
            return NONE
        samples = self.samples[figure.scenario][name]
        if None in samples:
            return VOID
        if not all(sample.get("kept up", True) for sample in samples):
            return SLOW
        values = [figure.value(sample) for sample in samples]
        if figure.added:
            direct = self.samples[figure.scenario]["direct"]
            if None in direct:
                return VOID
            values = [ours - figure.value(without) for ours, without in zip(values, direct)]
        return values

    def median(self, key: str, name: str) -> float | None:
        values = self.values[key].get(name)
        return statistics.median(values) if isinstance(values, list) else None

    def ratio(self, key: str, name: str) -> float | None:
        """Tidegate's divided by that one's, the median of what it is in each round: rounds share the
        machine's mood. None where a difference is not above nothing."""
        ours, theirs = (self.values[key].get(it) for it in (OURS, name))
        if not (isinstance(ours, list) and isinstance(theirs, list)) or min(theirs) <= 0:
            return None
        return statistics.median(our / their for our, their in zip(ours, theirs))

    def cell(self, figure: Figure, name: str) -> str:
        value = self.median(figure.key, name)
        if value is None:
            return self.values[figure.key][name]
        text = f"{value:,.{figure.digits}f}"
        ratio = None if name in (OURS, "direct") else self.ratio(figure.key, name)
        return text if ratio is None else f"{text} ({short(ratio)})"

    def memory_cell(self, when: str, name: str) -> str:
        if name not in self.memory:
            return NONE
        text = f"{self.memory[name][when] / 2**20:.1f}"
        if name == OURS or OURS not in self.memory:
            return text
        return f"{text} ({short(self.memory[OURS][when] / self.memory[name][when])})"

    def table(self) -> list[str]:
        rows = [["", *self.names], ["---", *("---:" for _ in self.names)]]
        for figure in FIGURES:
            rows.append([figure.label, *(self.cell(figure, name) for name in self.names)])
        for when, label in MEMORY:
            rows.append([label, *(self.memory_cell(when, name) for name in self.names)])
        return [f"| {' | '.join(row)} |" for row in rows]

    def bars(self) -> list[dict]:
        checked = []
        for bar in BARS:
            found = self.ratio(bar.key, bar.other) if bar.other else self.median(bar.key, OURS)
            kept = None
            if found is not None:
                kept = found >= bar.limit if bar.at_least else found <= bar.limit
            limit = f"{'at least' if bar.at_least else 'at most'} {short(bar.limit)}"
            text = f"{self.labels[bar.key]}: {limit}" + (f" of {bar.other}" if bar.other else "")
            checked.append({"bar": text, "limit": bar.limit, "found": found, "kept": kept})
        return checked


def short(value: float, digits: int = 2) -> str:
    """A ratio or a figure, with as many digits as mean something; 1/35 for small ratios."""
    if 0 < value < 0.1:
        return f"1/{1 / value:,.0f}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.{digits}f}"


WORDS = {True: "ok", False: "missed", None: "not measured"}


def bar_lines(bars: list[dict]) -> list[str]:
    return [
        f"- {WORDS[bar['kept']]}: {bar['bar']}"
        + ("" if bar["found"] is None else f"; it is {short(bar['found'], 3)}")
        for bar in bars
    ]


def machine() -> dict:
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in cpus if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "load before": round(os.getloadavg()[0], 2),
    }
