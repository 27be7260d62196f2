#!/usr/bin/env python3
"""Draws the plots of docs/LIMITS.md from the data of `cargo bench --bench plots`.

    plot.py DATA FOLDER

`make plots` makes the data, installs what is needed, and runs this.
"""

import csv
import math
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

LIMIT = 1_500_000
WINDOW = 60.0

# Told apart by people who do not see all colours, and by lightness alone.
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#555555"
FADED = "#9ecae1"

plt.rcParams.update(
    {
        "figure.facecolor": "white",
        "axes.facecolor": "white",
        "savefig.facecolor": "white",
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.grid": True,
        "grid.color": "#dddddd",
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 1.6,
    }
)


def rows(data: Path, name: str) -> list[dict[str, str]]:
    with (data / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def columns(data: Path, name: str) -> dict[str, list[float]]:
    table = rows(data, name)
    return {key: [float(row[key]) for row in table] for key in table[0]}


def save(figure, folder: Path, name: str) -> None:
    # No date and no version: the same data is the same picture.
    figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def beside(axes, **settings) -> None:
    """A legend to the right of the plot, where it covers nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), **settings)


def millions(values: list[float]) -> list[float]:
    return [value / 1e6 for value in values]


def per_second(run: dict[str, list[float]], lasts: int) -> list[int]:
    """Requests admitted in each second."""
    counts, before = [0] * lasts, 0.0
    for at, admitted in zip(run["seconds"], run["admitted"], strict=True):
        counts[min(int(at), lasts - 1)] += int(admitted - before)
        before = admitted
    return counts


def levels(axes, run: dict[str, list[float]], titles: tuple[str, str, str], ceiling) -> None:
    """Three plots under each other: levels, what is used, admissions."""
    top, middle, bottom = axes
    at = run["seconds"]
    top.fill_between(
        at, millions(run["held"]), step="post", color=FADED, label="held by the ledger", linewidth=0
    )
    top.step(at, millions(run["left"]), where="post", color=ORANGE, label="left at the upstream")
    top.step(at, millions(run["level"]), where="post", color=BLUE, label="level of the ledger")
    top.set_title(titles[0])
    top.set_ylabel("million tokens")
    top.set_ylim(0, LIMIT / 1e6 * 1.05)

    limit = [ceiling(second) / 1e6 for second in range(241)]
    middle.step(range(241), limit, where="post", color=GREY, linestyle="--", label="the most there can be")
    middle.step(at, millions(run["charged"]), where="post", color=GREEN, label="used, and reserved")
    middle.set_title(titles[1])
    middle.set_ylabel("million tokens")
    middle.set_ylim(0)

    bottom.bar(range(240), per_second(run, 240), width=1.0, align="edge", color=BLUE)
    bottom.set_title(titles[2])
    bottom.set_ylabel("requests a second")
    bottom.set_xlabel("seconds since the first request")
    bottom.set_xlim(0, 240)
    bottom.set_xticks(range(0, 241, 30))


def bucket(data: Path, folder: Path) -> None:
    figure, axes = plt.subplots(3, 1, figsize=(9, 7.5), sharex=True, layout="constrained")
    run = columns(data, "bucket-on-bucket")
    titles = (
        "A bucket of 1.5 million tokens a minute, from a full start: what is left",
        "What the upstream has given",
        "Admissions",
    )
    levels(axes, run, titles, lambda second: LIMIT * (1 + second / WINDOW))
    beside(axes[0])
    beside(axes[1])
    save(figure, folder, "bucket")


def fixed(data: Path, folder: Path) -> None:
    figure, axes = plt.subplots(3, 2, figsize=(11, 7.5), sharex=True, sharey="row", layout="constrained")
    for column, (name, mode) in enumerate(
        [("sliding-on-fixed", "sliding (phase not known)"), ("fixed-on-fixed", "fixed (phase known)")]
    ):
        run = columns(data, name)
        # The period opens where the upstream's level jumps to its limit.
        opens = opening(run)
        titles = (f"{mode}: what is left", "What the upstream has given", "Admissions")
        periods = lambda second: LIMIT * (1 + math.floor((second - opens) / WINDOW + 1))
        levels(axes[:, column], run, titles, periods)
        for row in axes[:, column]:
            for period in range(5):
                if opens + period * WINDOW < 240:
                    row.axvline(opens + period * WINDOW, color=RED, linewidth=0.8, linestyle=":")
        if column:
            for row in axes[:, column]:
                row.set_ylabel("")
    handles = [handle for row in axes[:2, 0] for handle in row.get_legend_handles_labels()[0]]
    labels = [label for row in axes[:2, 0] for label in row.get_legend_handles_labels()[1]]
    handles.append(plt.Line2D([], [], color=RED, linewidth=0.8, linestyle=":"))
    labels.append("the upstream's period begins")
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    save(figure, folder, "fixed")


def opening(run: dict[str, list[float]]) -> float:
    jumps = [
        (after - before, at)
        for before, after, at in zip(run["left"], run["left"][1:], run["seconds"][1:], strict=False)
        if at > 1
    ]
    return max(jumps)[1] % WINDOW


def by(table: list[dict[str, str]], *keys: str) -> dict[tuple, list[dict[str, str]]]:
    groups = defaultdict(list)
    for row in table:
        groups[tuple(row[key] for key in keys)].append(row)
    return groups


def formula(mode: str, ratio: float, seconds: float) -> float:
    """What the maths say: tests/sim/overload.rs compares the same with runs."""
    if mode == "bucket":
        return min(1.0, WINDOW / (seconds * ratio))
    if mode == "fixed":
        return 1 - (1 - 1 / ratio) ** math.ceil(WINDOW / seconds)
    return 1 / (1 + seconds / WINDOW * (ratio - 1))


MODES = [("bucket", BLUE, "o"), ("fixed", GREEN, "^"), ("sliding", RED, "s")]


def percent(axes, low: float = 0.3) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(low, 1.03)


def reservation(data: Path, folder: Path) -> None:
    groups = by(rows(data, "reservation"), "seconds", "mode")
    times = sorted({float(seconds) for seconds, _ in groups})
    figure, axes = plt.subplots(
        1, len(times), figsize=(11, 4.2), sharex=True, sharey=True, layout="constrained"
    )
    for plot, seconds in zip(axes, times, strict=True):
        fine = [1 + step / 50 for step in range(451)]
        for mode, color, marker in MODES:
            group = groups[f"{seconds:g}", mode]
            plot.plot(fine, [formula(mode, ratio, seconds) for ratio in fine], color=color)
            x, y = ([float(row[key]) for row in group] for key in ("reserved", "used"))
            plot.plot(x, y, marker, color=color, label=mode, markersize=5)
        plot.set_title(f"a request takes {seconds:g} s")
        plot.set_xlabel("reserved / used (E/a)")
        plot.set_xticks(range(1, 11))
    percent(axes[0])
    axes[0].set_ylabel("quota used")
    legend(figure, axes[0])
    save(figure, folder, "reservation")


def latency(data: Path, folder: Path) -> None:
    groups = by(rows(data, "latency"), "reserved", "mode")
    ratios = sorted({float(ratio) for ratio, _ in groups})
    figure, axes = plt.subplots(
        1, len(ratios), figsize=(11, 4.2), sharex=True, sharey=True, layout="constrained"
    )
    for plot, ratio in zip(axes, ratios, strict=True):
        fine = [step / 50 for step in range(10, 1_001)]
        for mode, color, marker in MODES:
            group = groups[f"{ratio:g}", mode]
            plot.plot(fine, [formula(mode, ratio, seconds) for seconds in fine], color=color)
            x, y = ([float(row[key]) for row in group] for key in ("seconds", "used"))
            plot.plot(x, y, marker, color=color, label=mode, markersize=5)
        plot.set_title(f"{ratio:g} times as much reserved as used")
        plot.set_xlabel("time from sending to settling, T (s), in a window of 60 s")
        plot.set_xlim(0, 20.5)
        plot.set_xticks(range(0, 21, 5))
    percent(axes[0], 0.5)
    axes[0].set_ylabel("quota used")
    legend(figure, axes[0])
    save(figure, folder, "latency")


def legend(figure, axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    handles.append(plt.Line2D([], [], color=GREY))
    labels.append("lines: the formulas")
    figure.legend(handles, labels, loc="outside lower center", ncols=4)


OBSERVED = [("true", "ledger with the observer", BLUE, "o"), ("false", "ledger alone", RED, "s")]


def cut(data: Path, folder: Path) -> None:
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    groups = by(rows(data, "cut"), "observed")
    for observed, label, color, marker in OBSERVED:
        group = groups[(observed,)]
        x, y = ([float(row[key]) for row in group] for key in ("cut", "used"))
        axes.plot(x, y, marker=marker, color=color, label=label, markersize=5)
    axes.set_title("Streams whose callers go away, and of which nobody says what they used")
    axes.set_xlabel("share of streams cut (the upstream refunds what they have not used)")
    axes.set_ylabel("quota used")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    percent(axes, 0)
    axes.legend(loc="lower left")
    save(figure, folder, "cut")


def foreign(data: Path, folder: Path) -> None:
    figure, (used, rejected) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    groups = by(rows(data, "foreign"), "observed")
    for observed, label, color, marker in OBSERVED:
        group = groups[(observed,)]
        x = [float(row["foreign"]) for row in group]
        used.plot(
            x, [float(row["used"]) for row in group], marker=marker, color=color, label=label, markersize=5
        )
        shares = [float(row["rejected"]) / float(row["sent"]) for row in group]
        rejected.plot(x, shares, marker=marker, color=color, label=label, markersize=5)
    used.set_title("Quota used, by everybody together")
    used.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    used.set_ylim(0.98, 1.0015)
    used.set_yticks([0.98, 0.985, 0.99, 0.995, 1])
    rejected.set_title("Own requests that the upstream rejected")
    rejected.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    rejected.set_ylim(-0.001)
    for plot in (used, rejected):
        plot.set_xlabel("share of the quota that others ask for")
        plot.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    rejected.legend(loc="upper left")
    save(figure, folder, "foreign")


SENDERS = [
    ("all", "sees all charges at once", GREY, "--"),
    ("growing", "knows what headers can tell; margin grows", GREEN, "-"),
    ("constant", "knows what headers can tell; margin constant", ORANGE, "-"),
]


def bound(data: Path, folder: Path) -> None:
    groups = by(rows(data, "bound"), "foreign", "sender")
    shares = sorted({share for share, _ in groups}, key=float)
    figure, axes = plt.subplots(1, len(shares), figsize=(11, 4.6), sharey=True, layout="constrained")
    for plot, share in zip(axes, shares, strict=True):
        for sender, label, color, style in SENDERS:
            group = groups[share, sender]
            x, y = ([float(row[key]) for row in group] for key in ("rejected", "used"))
            plot.plot(x, y, color=color, linestyle=style, marker=".", label=label)
        (gateway,) = groups[share, "gateway"]
        x, y = float(gateway["rejected"]), float(gateway["used"])
        plot.plot(x, y, "o", color=BLUE, markersize=8, label="the gateway")
        plot.axvline(0.005, color=RED, linewidth=0.8, linestyle=":")
        plot.annotate("0.5 %", (0.0051, 0.942), color=RED, fontsize=9)
        plot.axhline(0.98, color=RED, linewidth=0.8, linestyle=":")
        plot.set_title(f"others ask for {float(share):.0%} of a sliding log")
        plot.set_xlabel("own requests rejected")
        plot.set_xlim(-0.0003, 0.02)
        plot.set_xticks([0, 0.005, 0.01, 0.015, 0.02])
        plot.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    axes[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0].set_ylim(0.94, 0.992)
    axes[0].set_ylabel("quota used, by everybody together")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    save(figure, folder, "bound")


def cumulative(table: list[dict[str, str]]) -> dict[int, tuple[list[float], list[float]]]:
    sums: dict[int, tuple[list[float], list[float]]] = {}
    for row in table:
        at, total = sums.setdefault(int(row["tenant"]), ([0.0], [0.0]))
        at.append(float(row["seconds"]))
        total.append(total[-1] + float(row["used"]) / 1e6)
    return sums


def between(sums: tuple[list[float], list[float]], start: float, end: float) -> float:
    """What came to a tenant between two instants."""
    total = [max(sum for at, sum in zip(*sums, strict=True) if at <= limit) for limit in (start, end)]
    return total[1] - total[0]


def fairness(data: Path, folder: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    crowd = cumulative(rows(data, "greedy"))
    for tenant, (at, total) in sorted(crowd.items()):
        greedy = tenant == 0
        label = "one tenant with 1,000 waiting" if greedy else "nine with 3 waiting each"
        left.step(
            at,
            total,
            where="post",
            color=BLUE if greedy else ORANGE,
            linewidth=1.8 if greedy else 1.0,
            label=label if tenant < 2 else None,
        )
    come, go = 120, 360
    for at, words in [(come, "the nine come"), (go, "and go")]:
        left.axvline(at, color=GREY, linewidth=0.8, linestyle=":")
        left.annotate(words, (at + 5, 7.0), color=GREY, fontsize=9)
    # From a little later: what was on its way when they came is not theirs.
    gained = [between(sums, come + 10, go) for _, sums in sorted(crowd.items())]
    lightest, most = min(gained[1:]), max(gained[1:])
    for y, words in [
        (5.25, f"{gained[0]:.2f} million in these minutes"),
        (0.75, f"{lightest:.2f} to {most:.2f} million each"),
    ]:
        left.annotate(words, ((come + go) / 2, y), ha="center", fontsize=9, color=GREY)
    left.set_title("Equal weights")
    left.legend(loc="upper left")

    colors = [BLUE, GREEN, RED]
    sums = cumulative(rows(data, "weights"))
    every = sum(total[-1] for _, total in sums.values())
    for tenant, (at, total) in sorted(sums.items(), reverse=True):
        weight = 2**tenant
        right.step(at, total, where="post", color=colors[tenant], label=f"weight {weight}")
        share = every * weight / 7
        right.annotate(
            f"{total[-1] / every:.1%}, due {weight / 7:.1%}",
            (at[-1], total[-1]),
            xytext=(-6, 6),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color=colors[tenant],
        )
        right.hlines(share, 240, 480, color=colors[tenant], linewidth=0.6, linestyle="--")
    right.set_title("Weights 1, 2 and 4; requests of very different sizes")
    right.legend(loc="upper left")
    for plot in (left, right):
        plot.set_xlabel("seconds")
        plot.set_ylabel("million tokens used, in all")
        plot.set_xlim(0, 480)
        plot.set_xticks(range(0, 481, 60))
        plot.set_ylim(0, 9)
    save(figure, folder, "fairness")


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    data, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for plot in (bucket, fixed, reservation, latency, cut, foreign, bound, fairness):
        plot(data, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
