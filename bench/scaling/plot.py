"""Draws what bench/scale measured: plot.py FILE FOLDER, with the tools and the looks of docs/plots."""

import json
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE.parent.parent / "docs/plots"))

from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: E402
from plot import BLUE, GREEN, ORANGE, plt, save  # noqa: E402

COLORS = [BLUE, ORANGE, GREEN]
PANELS = {
    "waiting": ("One step beside so many waiting requests", "requests that wait in one pool"),
    "tenants": ("One step beside so many waiting tenants", "tenants with one request each that waits"),
    "pools": ("A request through one of so many pools", "pools"),
}
STREAMS = [("paced", "1,000 chunks a second in all"), ("full", "as fast as they come")]


def plain(value: float, _=None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def frame(axes, title: str, label: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_ylabel("CPU, µs")
    axes.set_xscale("log")
    axes.set_yscale("log")
    # Flat looks flat: all panels span the same ratio.
    axes.set_ylim(0.3, 100)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(plain))
        axis.set_minor_formatter(NullFormatter())
    axes.legend(loc="upper left")


def admission(axes, points: list[dict], of: str) -> None:
    """The median and, dashed, the 99th percentile of each curve."""
    names = list(dict.fromkeys(it["name"] for it in points if it["of"] == of))
    for name, color in zip(names, COLORS):
        mine = [it for it in points if (it["of"], it["name"]) == (of, name)]
        x = [it["size"] for it in mine]
        axes.plot(x, [it["p50"] / 1e3 for it in mine], "o-", color=color, label=name, markersize=4)
        p99 = [it["p99"] / 1e3 for it in mine]
        axes.plot(x, p99, "o--", color=color, markersize=3, linewidth=1.0, alpha=0.8)
    axes.plot([], [], "--", color="#555555", linewidth=1.0, label="99th percentiles")


def streams(axes, points: list[dict]) -> None:
    for (key, name), color in zip(STREAMS, COLORS):
        mine = [it for it in points if it[key]]
        y = [statistics.median(it[key]) for it in mine]
        axes.plot([it["size"] for it in mine], y, "o-", color=color, label=name, markersize=4)


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    run, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(2, 2, figsize=(11, 8.4), layout="constrained")
    for plot, (of, (title, label)) in zip(axes.flat, PANELS.items()):
        admission(plot, run["admission"], of)
        frame(plot, title, label)
    streams(axes.flat[3], run["streams"])
    frame(axes.flat[3], "A chunk beside so many streams", "streams at once")
    save(figure, folder, "scale")
    return 0


if __name__ == "__main__":
    sys.exit(main())
