"""The alerts in a real Prometheus that watches real gateways: each fires when what it is about happens, and
clears when that is over.

All scenarios run at once, so that the whole takes as long as the slowest. Tests run in the order in which
they stand here.
"""

import time

import pytest

from prometheus import RULES, Prometheus, scaled
from scenarios import SCENARIOS, FullQueue, World

# At sixty times their speed the slowest alert takes half a minute, on a machine that does nothing else.
PATIENCE = 120.0

CASES = [(kind, alert) for kind in SCENARIOS for alert in kind.alerts]
NAMES = [alert for _, alert in CASES]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    own = Prometheus(tmp_path_factory.mktemp("prometheus"), scaled(RULES.read_text()))
    yield own
    own.stop()


@pytest.fixture(scope="module")
def world(prometheus, tmp_path_factory):
    own = World(prometheus, tmp_path_factory.mktemp)
    yield own
    own.stop()


@pytest.fixture(scope="module")
def quiet(world):
    """Everything is watched, and nothing is wrong yet."""
    prometheus, targets = world.prometheus, world.targets()
    prometheus.scrape(*targets)
    await_that(lambda: len(prometheus.query("up == 1")) == len(targets), "every gateway scraped")
    await_that(lambda: not prometheus.firing("TidegateAbsent"), "an end of TidegateAbsent")
    return world


@pytest.fixture(scope="module")
def pushed(quiet):
    """All that can go wrong does."""
    quiet.push()
    return quiet


@pytest.fixture(scope="module")
def released(pushed):
    """And it is over."""
    pushed.release()
    return pushed


def await_that(condition, what: str):
    """Polls until the condition holds, and returns what it returned."""
    deadline = time.monotonic() + PATIENCE
    while not (seen := condition()):
        assert time.monotonic() < deadline, f"never seen: {what}"
        time.sleep(0.1)
    return seen


def test_an_empty_configuration_is_an_alert_and_its_end_clears_it(prometheus, request):
    await_that(lambda: prometheus.firing("TidegateAbsent"), "TidegateAbsent, with nothing to scrape")
    request.getfixturevalue("quiet")


def test_the_rules_are_evaluated_without_an_error(quiet):
    rules = [rule for group in quiet.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert {it["health"] for it in rules} == {"ok"}, rules
    alerts = {it["name"] for it in rules if it["type"] == "alerting"}
    assert alerts == {*NAMES, "TidegateAbsent"}, "each is pushed by a scenario"


def test_gateways_that_are_well_alert_nobody(quiet):
    alerts = quiet.prometheus.ask("alerts")["alerts"]
    assert [it for it in alerts if it["state"] == "firing"] == []


@pytest.mark.parametrize("kind, alert", CASES, ids=NAMES)
def test_an_alert_fires(pushed, kind, alert):
    instance = pushed.scenarios[kind].targets[0]

    def fires():
        return pushed.prometheus.firing(alert, instance)

    # Some come and go with what pushes them.
    fired = await_that(fires, f"{alert} at {kind.__name__}")
    # What people will read is about this gateway, and whole.
    notes = fired[0]["annotations"]
    assert "<no value>" not in str(notes) and "<error" not in str(notes), notes


def test_a_full_queue_that_is_well_is_news_and_no_fault(pushed):
    instance = pushed.scenarios[FullQueue].targets[0]

    def firing():
        alerts = pushed.prometheus.ask("alerts")["alerts"]
        labels = [it["labels"] for it in alerts if it["state"] == "firing"]
        return {(it["alertname"], it["severity"]) for it in labels if it.get("instance") == instance}

    expected = {(alert, "info") for alert in FullQueue.alerts}
    await_that(lambda: firing() == expected, "the five thresholds, and nothing else")
    louder = f'max_over_time(ALERTS{{alertstate="firing",severity!="info",instance="{instance}"}}[10m])'
    assert pushed.prometheus.query(louder) == [], "nor was there, at any time"


@pytest.mark.parametrize("kind, alert", CASES, ids=NAMES)
def test_an_alert_clears(released, kind, alert):
    instance = released.scenarios[kind].targets[0]
    await_that(lambda: not released.prometheus.firing(alert, instance), f"an end of {alert}")
