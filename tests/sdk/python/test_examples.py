"""The examples do the same jobs in several ways, and say the same of them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import AMPLE, KEY, PATIENCE, PLANTED, Limit

EVALUATE = Path(__file__).parents[3] / "examples/evaluate"
JOBS = 200
WAYS = {
    "batch": [sys.executable, "sdk_batch.py"],
    "calls": [sys.executable, "sdk_calls.py"],
    "curl": ["sh", "curl.sh"],
}


def run(command, directory, url="", key=KEY):
    """Runs a command of the examples in a directory of the test's: its exit code and what it says."""
    first = [str(EVALUATE / it) if (EVALUATE / it).exists() else it for it in command]
    # Their summaries need the interpreter that has the SDK, and nobody's own settings.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"PATH": path, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": key}
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        first,
        cwd=directory,
        env=env,
        timeout=2 * PATIENCE,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture
def jobs(tmp_path):
    code, said = run([sys.executable, "make_jobs.py", "-n", str(JOBS), "-m", "demo-model"], tmp_path)
    assert code == 0, said
    return tmp_path


def results(directory, *names):
    texts = ((directory / name).read_text() for name in names if (directory / name).exists())
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    return {entry["custom_id"]: entry for entry in lines}


def test_the_jobs_are_always_the_same(jobs, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    command = [sys.executable, "make_jobs.py", "-n", str(JOBS), "-m", "demo-model"]
    assert run(command, other)[0] == 0
    text = (jobs / "jobs.jsonl").read_text()
    assert text == (other / "jobs.jsonl").read_text()
    entries = [json.loads(line) for line in text.splitlines()]
    assert len({entry["custom_id"] for entry in entries}) == JOBS


def test_every_way_comes_to_the_same(stack, jobs):
    found, said = {}, {}
    for name, command in WAYS.items():
        before = stack.stats()["completed"]
        code, text = run([*command, "jobs.jsonl", f"{name}.jsonl"], jobs, stack.via)
        assert code == 0, text
        assert stack.stats()["completed"] == before + JOBS
        found[name] = results(jobs, f"{name}.jsonl")
        said[name] = text.splitlines()[-2:]
    assert said["batch"][0] == f"{JOBS} jobs: {JOBS} answered, 0 failed"
    assert re.fullmatch(r"\d+ tokens: \d+ of prompts, \d+ of answers", said["batch"][1])
    assert said["calls"] == said["curl"] == said["batch"]
    for job in (json.loads(line) for line in (jobs / "jobs.jsonl").read_text().splitlines()):
        name, most = job["custom_id"], job["body"]["max_completion_tokens"]
        usages = [found[way][name]["response"]["body"]["usage"] for way in WAYS]
        assert all(usage == usages[0] for usage in usages)
        assert usages[0]["completion_tokens"] == most
    assert results(jobs, "errors.jsonl") == {}


def test_calls_above_the_limit_need_no_pacing(start, jobs):
    """The limit is a third of the jobs; direct calls would be refused."""
    own = start(limits=[Limit("requests", JOBS // 3, "minute", 1.5), *AMPLE[1:]])
    code, text = run([*WAYS["calls"], "jobs.jsonl", "calls.jsonl"], jobs, own.via)
    assert (code, own.stats()["rejected"]) == (0, 0), text
    assert f"{JOBS} answered, 0 failed" in text
    code, text = run([*WAYS["calls"], "jobs.jsonl", "direct.jsonl"], jobs, own.direct, f"{KEY}-direct")
    assert code == 0 and f"{JOBS} answered" not in text, text


def test_what_fails_is_said(stack, jobs):
    text = (jobs / "jobs.jsonl").read_text().replace('"demo-model"', '"no-such-model"', 5)
    (jobs / "jobs.jsonl").write_text(text)
    for name, command in WAYS.items():
        code, text = run([*command, "jobs.jsonl", f"{name}.jsonl"], jobs, stack.via)
        assert code == 0, text
        assert f"{JOBS} jobs: {JOBS - 5} answered, 5 failed" in text
    (jobs / "jobs.jsonl").write_text("no job\n")
    for name in ("batch", "curl"):
        code, text = run([*WAYS[name], "jobs.jsonl", "out.jsonl"], jobs, stack.via)
        assert code != 0 and "the line is not a JSON object" in text, text


@pytest.mark.parametrize("name", WAYS)
def test_a_gateway_that_is_not_there_is_an_error(jobs, name):
    code, text = run([*WAYS[name], "jobs.jsonl", "out.jsonl"], jobs, "http://127.0.0.1:9")
    said = "Connection error" if name == "batch" else "failed"
    # Calls that fail are results; a batch that cannot be made is none.
    assert (code == 0) == (name == "calls"), text
    assert PLANTED not in text
    assert name == "curl" or said in text
