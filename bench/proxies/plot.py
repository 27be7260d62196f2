"""Draws what bench/peers measured: plot.py FILE FOLDER, with the tools and the looks of docs/plots."""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE.parent.parent / "docs/plots"))

from plot import BLUE, GREY, ORANGE, plt, save  # noqa: E402

PLOTS = [
    ("cpu 1 KB", "CPU for a request of 1 KB, 64 at once (µs)"),
    ("cpu 32 KB", "CPU for a request of 32 KB, 64 at once (µs)"),
    ("rps 1 KB", "Requests a second, 1 KB, 64 at once"),
    ("one p50", "Median latency added, one at once (µs)"),
    ("chunk cpu", "CPU for a chunk, 50 streams (µs)"),
    ("first p50", "Median added to the first chunk, paced streams (µs)"),
    ("500 cpu", "CPU for a request at 500 a second (µs)"),
    ("loaded", "Most memory after a window (MiB)"),
]


def color(name: str) -> str:
    return BLUE if name.startswith("tidegate") else GREY if name.startswith("bare") else ORANGE


def dots(axes, values: dict[str, float], title: str) -> None:
    """One dot for each; the scale is logarithmic, since there are a thousand times between them."""
    for name, value in values.items():
        axes.plot([value], [name], "o", color=color(name), markersize=7)
        text = f"{value:.3g}" if value < 1_000 else f"{value:,.0f}"
        place = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(text, (value, name), fontsize=9, **place)
    axes.set_title(title)
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.1)
    axes.invert_yaxis()


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    run, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(4, 2, figsize=(11, 12), layout="constrained")
    for plot, (key, title) in zip(axes.flat, PLOTS, strict=True):
        if key == "loaded":
            values = {name: it[key] / 2**20 for name, it in run["memory"].items()}
        else:
            values = run["medians"][key]
        # What is void or too slow has no dot, nor has a difference that is not above nothing.
        dots(plot, {name: it for name, it in values.items() if it and it > 0 and name != "direct"}, title)
    save(figure, folder, "peers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
