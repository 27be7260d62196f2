#!/usr/bin/env python3
"""Draws a saturated minute with and without the gateway: two runs of the real thing.

    minute.py BINARY PICTURE [JSON]

Both sides at once, each before a simulated upstream of its own with 120 requests a minute, as a
bucket: CALLERS callers of the official SDK, with its own retries (two), ask again as soon as they
have an answer or an error. Before the minute the bucket's initial content is used up.
"""

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import openai

LIMIT = 120
CALLERS = 20
# The bucket's content goes in the first seconds; then both have settled.
WARM_UP, MINUTE = 20.0, 60.0
BLUE, RED, GREY = "#0072b2", "#d55e00", "#555555"
MESSAGES = [{"role": "user", "content": "How high is the tide?"}]


class Side:
    """An upstream, and the gateway in front of it or not."""

    def __init__(self, gateway: bool):
        self.gateway = gateway
        self.name = "Through Tidegate" if gateway else "Directly, with the SDK's retries"
        self.processes = []
        self.answers, self.errors, self.waits = Counter(), Counter(), []

    def run(self, binary: str, folder: Path) -> None:
        line = self.start(
            *(binary, "simulate", "--listen=127.0.0.1:0", f"--limit=requests/minute={LIMIT}@1m"),
            "--output=60",
        )
        self.upstream = self.url = re.search(r"(http://\S+)/v1", line)[1]
        if self.gateway:
            config = folder / "tidegate.toml"
            config.write_text(
                '[server]\nlisten = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n'
                f'[upstream]\nbase_url = "{self.upstream}"\n[batch]\ndir = "{folder}/batches"\n'
                '[models."*"]\noutput_reservation = { default = 60 }\n'
                f'limits = [{{ unit = "requests", limit = {LIMIT}, per = "1m" }}]\n'
            )
            line = self.start(binary, "serve", "--stateless", f"--config={config}")
            self.url = re.search(r"(http://\S+)/v1", line)[1]

    def start(self, *command: str) -> str:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.processes.append(child)
        return child.stdout.readline()

    def stop(self) -> None:
        for child in reversed(self.processes):
            child.terminate()
            child.wait()
            child.stdout.close()

    def rejected(self) -> int:
        with urllib.request.urlopen(self.upstream + "/_sim/stats") as answer:
            return json.load(answer)["stats"]["rejected"]

    async def call(self, until: float, minute: float) -> None:
        async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="a-key") as client:
            while (began := time.monotonic()) < until:
                try:
                    await client.chat.completions.create(
                        model="demo", messages=MESSAGES, max_completion_tokens=60
                    )
                    into = self.answers
                except openai.RateLimitError:
                    into = self.errors
                ended = time.monotonic()
                if minute <= ended < minute + MINUTE:
                    into[int(ended - minute)] += 1
                    if into is self.answers:
                        self.waits.append(ended - began)


async def measure(sides: list[Side]) -> list[dict]:
    minute = time.monotonic() + WARM_UP
    calls = [side.call(minute + MINUTE, minute) for side in sides for _ in range(CALLERS)]
    work = asyncio.gather(*calls)
    await asyncio.sleep(WARM_UP)
    before = [side.rejected() for side in sides]
    await asyncio.sleep(MINUTE)
    after = [side.rejected() for side in sides]
    await work
    return [
        {
            "side": side.name,
            "answers": sum(side.answers.values()),
            "failed_calls": sum(side.errors.values()),
            "refusals_of_the_upstream": late - early,
            "longest_seconds": round(max(side.waits), 1),
        }
        for side, early, late in zip(sides, before, after, strict=True)
    ]


def draw(sides: list[Side], report: list[dict], picture: str) -> None:
    plt.rcParams.update({"font.size": 10, "axes.titlelocation": "left", "axes.titlesize": 11})
    figure, plots = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True, sharey=True, layout="constrained")
    seconds = range(int(MINUTE))
    for axes, side, said in zip(plots, sides, report, strict=True):
        answers = [side.answers[it] for it in seconds]
        errors = [-side.errors[it] for it in seconds]
        axes.bar(seconds, answers, 0.8, align="edge", color=BLUE, label="answers")
        axes.bar(seconds, errors, 0.8, align="edge", color=RED, label="calls that failed (429)")
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_title(
            f"{side.name}: {said['answers']} answers, {said['failed_calls']} calls failed, "
            f"{said['refusals_of_the_upstream']} refusals by the upstream"
        )
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel("calls a second")
    handles, labels = plots[0].get_legend_handles_labels()
    # There is room where nothing failed.
    plots[1].legend(handles, labels, loc="lower right", frameon=False)
    plots[1].set_xlabel("seconds")
    plots[1].set_xlim(0, MINUTE)
    figure.savefig(picture, dpi=110, metadata={"Software": None})


def main() -> int:
    binary, picture = sys.argv[1:3]
    sides = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for gateway in (False, True):
                sides.append(Side(gateway))
                sides[-1].run(binary, Path(folder))
            report = asyncio.run(measure(sides))
        finally:
            for side in sides:
                side.stop()
    text = json.dumps(report, indent=1)
    print(text)
    if len(sys.argv) > 3:
        Path(sys.argv[3]).write_text(text + "\n")
    draw(sides, report, picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
