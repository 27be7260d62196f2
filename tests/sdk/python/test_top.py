"""`tidegate top` in a real terminal: tmux shows it, types for it, and says what is on the screen."""

import contextlib
import os
import re
import signal
import subprocess
import threading

import openai
import pytest

from harness import AMPLE, KEY, MODEL, PROMPT, Limit, binary, wait_until

MESSAGES = [{"role": "user", "content": PROMPT}]
# Two at once, and then one in half an hour: the rest waits for as long as the test needs.
TWO_AN_HOUR = [Limit("requests", 2, "hour", 3_600), *AMPLE[3:]]
WAITING = 3
# One of the terminal's colours, not its usual one.
COLOUR = re.compile(r"\x1b\[[0-9;]*\b38;5;")


class Terminal:
    """A tmux server of its own with one window, in which a command runs."""

    def __init__(self, directory, command: list[str], env=(), size=(110, 32)):
        self.socket = directory / "tmux"
        # The last line stays when the command has ended, and says how.
        script = '"$@"; echo "ended with $?"; exec sleep 600'
        columns, rows = size
        self.tmux(
            *("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(rows)),
            *(part for name in env for part in ("-e", name)),
            *("sh", "-c", script, "sh", *command),
        )

    def tmux(self, *args: str) -> str:
        return subprocess.run(
            ["tmux", "-S", str(self.socket), *args],
            check=True,
            capture_output=True,
            text=True,
            # Whatever the terminal is in which the tests are run.
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"},
        ).stdout

    def screen(self, colours: bool = False) -> str:
        return self.tmux("capture-pane", "-p", *(["-e"] if colours else []))

    def type(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def shows(self, *patterns: str) -> str:
        """Waits until the screen has all of these expressions, and returns it."""
        try:
            return wait_until(lambda: self._if_shown(patterns), f"{patterns}")
        except AssertionError as error:
            raise AssertionError(f"{error} on\n{self.screen()}") from None

    def _if_shown(self, patterns) -> str:
        screen = self.screen()
        found = all(re.search(pattern, screen, re.MULTILINE) for pattern in patterns)
        return screen if found else ""

    def stop(self) -> None:
        self.tmux("kill-server")


@pytest.fixture
def terminal(tmp_path):
    """Runs `tidegate top` in a terminal."""
    started = []

    def run(*args: str, **options) -> Terminal:
        directory = tmp_path / str(len(started))
        directory.mkdir()
        started.append(Terminal(directory, [binary(), "top", *args], **options))
        return started[-1]

    yield run
    for own in started:
        own.stop()


@pytest.fixture
def busy(start):
    """A gateway in which requests wait."""
    own = start(limits=TWO_AN_HOUR, config={"admission": {"max_wait": "10h"}})

    def ask() -> None:
        with openai.OpenAI(base_url=f"{own.via}/v1", api_key=KEY, max_retries=0) as client:
            # Those that still wait are refused when the gateway stops.
            with contextlib.suppress(openai.OpenAIError):
                client.chat.completions.create(model=MODEL, messages=MESSAGES, timeout=36_000)

    threads = [threading.Thread(target=ask) for _ in range(2 + WAITING)]
    for thread in threads:
        thread.start()
    wait_until(lambda: own.gateway.metric("tidegate_queue_depth") == WAITING, "three wait")
    yield own
    own.stop()
    for thread in threads:
        thread.join()


def test_the_gateway_is_seen_live_in_a_terminal(terminal, busy):
    shown = terminal(busy.gateway.admin, "--interval=100ms")
    shown.shows(
        "waits for requests/hour",
        f"{WAITING} of them waiting",
        MODEL,
        r"^▶ requests/hour +█+ 100 % 0 of 2 left.* full in \d+ min",
        r"^  tokens/minute +·+ +0 % ",
        # The class that waits: somebody new would wait for an hour.
        r"^  standard +3 .* min$",
        r"q quit.*\n\Z",
    )
    assert COLOUR.search(shown.screen(colours=True)), "colours are used"

    shown.type("?")
    shown.shows("the next pool", "stop and go on")
    shown.type("?")
    shown.shows("requests/hour")

    # It goes small, and says so, and large again.
    shown.tmux("resize-window", "-x", "60", "-y", "8")
    shown.shows("more lines", r"q quit.*\n\Z")
    shown.tmux("resize-window", "-x", "110", "-y", "32")
    assert "more lines" not in shown.shows("All pools", "tokens/day")

    shown.type("p")
    shown.shows("PAUSED")
    shown.type("p")

    # While the gateway does not answer, the last picture stays and is not taken for the present.
    os.kill(busy.gateway.process.child.pid, signal.SIGSTOP)
    try:
        assert "requests/hour" in shown.shows("NOT LIVE for", "it took too long")
    finally:
        os.kill(busy.gateway.process.child.pid, signal.SIGCONT)
    wait_until(lambda: "NOT LIVE" not in shown.screen(), "it is live again")

    shown.type("q")
    screen = shown.shows("ended with 0")
    assert "requests/hour" not in screen, "the terminal is as it was before"


def test_a_signal_leaves_the_terminal_as_it_was(terminal, busy):
    shown = terminal(busy.gateway.admin, env=["NO_COLOR=1"])
    shown.shows("waits for requests/hour")
    assert not COLOUR.search(shown.screen(colours=True)), "no colours where none are wanted"
    shown.type("C-c")
    assert "requests/hour" not in shown.shows("ended with 0")


def test_a_gateway_that_is_not_there_is_waited_for(terminal):
    shown = terminal("http://127.0.0.1:1", "--interval=100ms")
    shown.shows("no answer from http://127.0.0.1:1: Connection refused")
    shown.type("q")
    shown.shows("ended with 0")


def test_without_a_terminal_the_picture_is_printed_once(busy):
    def top(*args: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [binary(), "top", *args], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL
        )

    done = top(busy.gateway.admin)
    assert done.returncode == 0, done.stderr
    assert "waits for requests/hour" in done.stdout and "\x1b" not in done.stdout
    done = top("http://127.0.0.1:1")
    assert done.returncode == 1 and "no answer from http://127.0.0.1:1" in done.stderr
    done = top(busy.via)
    assert done.returncode == 1 and "is not a gateway's status" in done.stderr
    for bad in (["not a url"], [busy.gateway.admin, "--interval=1ms"]):
        assert top(*bad).returncode == 2
