"""A real Prometheus, with the rules and at the speed that a test needs.

Time is scaled: whatever the rules count in minutes, and what they say in seconds, is divided by `FACTOR`, so
that an alert which takes five minutes takes five seconds. What is tested stays the shipped file: nothing
but its durations is changed.
"""

import json
import os
import re
import subprocess
import urllib.parse
from pathlib import Path

from harness import PATIENCE, fetch, wait_until

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "config/prometheus/alerts.yml"

# A minute is a second.
FACTOR = 60
# Less often than scaled, for the sake of a busy machine; ranges of five minutes still get ten samples.
SCRAPES, EVALUATIONS = "500ms", "250ms"

# Spans that rules compare with, in seconds: there is nothing by which they could be told from other numbers.
SECONDS = {
    "tidegate_exhausted_in_seconds < {}": 3600,
    "tidegate_window_seconds > {}": 3600,
    'tidegate:class_wait_seconds:p95_rate5m{{class!="batch"}} > {}': 60,
}


def promtool(*args: str, text: str = "") -> str:
    """Runs promtool, which must be satisfied, and returns what it prints."""
    path = os.environ.get("PROMTOOL", "promtool")
    run = subprocess.run(
        [path, *args], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    assert run.returncode == 0, run.stdout
    return run.stdout


def scaled(rules: str) -> str:
    """The rules at `FACTOR` times their speed."""

    def faster(found: re.Match) -> str:
        seconds = int(found[2]) * {"s": 1, "m": 60, "h": 3600}[found[3]]
        return f"{found[1]}{seconds * 1000 // FACTOR}ms"

    # Ranges in expressions and the time for which a condition has to hold; not the prose.
    lines = []
    for line in rules.splitlines():
        if not line.lstrip().startswith(("#", "summary:", "description:", "runbook:")):
            line = re.sub(r"(\[|for: )(\d+)([smh])\b", faster, line)
        lines.append(line)
    text = "\n".join(lines) + "\n"
    for comparison, seconds in SECONDS.items():
        before, after = comparison.format(seconds), comparison.format(seconds / FACTOR)
        assert text.count(before) == 1, f"the rules do not have {before!r} once"
        text = text.replace(before, after)
    return text


class Prometheus:
    """A server that scrapes `targets` (addresses), in a directory of its own."""

    def __init__(self, directory: Path, rules: str = RULES.read_text()):
        self.targets = directory / "targets.json"
        self.scrape()
        (directory / "alerts.yml").write_text(rules)
        config = directory / "prometheus.yml"
        config.write_text(
            f"global: {{ scrape_interval: {SCRAPES}, evaluation_interval: {EVALUATIONS} }}\n"
            "rule_files: [alerts.yml]\n"
            "scrape_configs:\n"
            "  - job_name: tidegate\n"
            f"    file_sd_configs: [{{ files: [{self.targets.name}], refresh_interval: 1s }}]\n"
        )
        self.log_path = directory / "prometheus.log"
        with self.log_path.open("wb") as log:
            self.child = subprocess.Popen(
                [
                    os.environ.get("PROMETHEUS", "prometheus"),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    # It has no flag to tell its port: the log does.
                    "--web.listen-address=127.0.0.1:0",
                    "--log.level=debug",
                ],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        try:
            self.url = wait_until(self._address, "the address of Prometheus")
            wait_until(self._ready, "a Prometheus that is ready")
        except BaseException:
            self.stop()
            raise

    def _address(self) -> str | None:
        log = self.log_path.read_text()
        assert self.child.poll() is None, log
        found = re.search(r'msg="Listening on" address=(127\.0\.0\.1:[1-9]\d*)', log)
        return found and f"http://{found[1]}"

    def _ready(self) -> bool:
        try:
            return "Ready" in fetch(f"{self.url}/-/ready")
        except OSError:
            return False

    def scrape(self, *targets: str) -> None:
        """Scrapes these addresses from now on, and no other."""
        # Whole or not at all: it watches the file.
        new = self.targets.with_suffix(".new")
        new.write_text(json.dumps([{"targets": list(targets)}]))
        new.rename(self.targets)

    def ask(self, path: str, **parameters):
        """The data of an answer of the API."""
        query = urllib.parse.urlencode(parameters, doseq=True)
        answer = json.loads(fetch(f"{self.url}/api/v1/{path}?{query}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict]:
        """The samples that an expression has now."""
        return self.ask("query", query=expression)["result"]

    def firing(self, alert: str, instance: str | None = None) -> list[dict]:
        """The alerts of this name that fire now."""
        return [
            it
            for it in self.ask("alerts")["alerts"]
            if it["state"] == "firing"
            and it["labels"]["alertname"] == alert
            and (instance is None or it["labels"].get("instance") == instance)
        ]

    def stop(self) -> None:
        self.child.terminate()
        try:
            self.child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise
