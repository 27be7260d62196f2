"""Stacks to test against: one that all tests share, and as many of one's own as a test needs."""

import pytest

from harness import Stack

# One attempt: what the upstream says is what the caller sees.
ONCE = {"retry": {"max_attempts": 1}}


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    """Ample limits, answers at once, no retries."""
    simulate = ("--models=demo-model,other-model", "--chunk-tokens=7")
    shared = Stack(tmp_path_factory.mktemp("stack"), simulate=simulate, config=ONCE)
    yield shared
    shared.stop()


@pytest.fixture
def start(tmp_path_factory):
    """Starts stacks of the test's own; they are stopped when it ends."""
    started = []

    def start(**options) -> Stack:
        started.append(Stack(tmp_path_factory.mktemp("stack"), **options))
        return started[-1]

    yield start
    for own in started:
        own.stop()
