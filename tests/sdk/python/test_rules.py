"""The rules for Prometheus: well formed, each tried at its threshold, and each explained."""

import re

import pytest
import yaml

from prometheus import FACTOR, ROOT, RULES, promtool, scaled

TESTS = ROOT / "tests/prometheus/alerts.yml"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
PAGE = (ROOT / "docs/OPERATIONS.md").read_text()


def test_promtool_accepts_the_configuration_with_its_rules():
    said = promtool("check", "config", "--lint=all", "--lint-fatal", "config/prometheus/prometheus.yml")
    assert "1 rule files found" in said


def test_every_alert_fires_above_its_threshold_and_not_at_it():
    said = promtool("test", "rules", str(TESTS.relative_to(ROOT)))
    assert "SUCCESS" in said


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_tried_before_while_and_after_it_fires(name):
    tried = [
        (case["eval_time"], bool(case["exp_alerts"]))
        for group in yaml.safe_load(TESTS.read_text())["tests"]
        for case in group["alert_rule_test"]
        if case["alertname"] == name
    ]
    fires = [fires for _, fires in tried]
    # One that nothing can clear while Prometheus runs as it does has no end to be seen.
    expected = [False, True] if name == "TidegateAbsent" else [False, True, False]
    assert fires == expected, tried


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_means_and_what_to_do(name):
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    notes = alert["annotations"]
    assert set(notes) == {"summary", "description", "runbook"}
    assert notes["runbook"] == f"docs/OPERATIONS.md#{name.lower()}"
    found = re.search(rf"^### {name}\n\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"no section in docs/OPERATIONS.md: {name}"
    for part in ("**Means**", "**Look at**", "**Do**"):
        assert found[1].count(part) == 1, f"{name}: {part}"


def test_no_section_is_of_an_alert_that_is_gone():
    sections = re.findall(r"^### (Tidegate\w+)$", PAGE, re.MULTILINE)
    assert sorted(sections) == sorted(ALERTS)


def test_only_durations_are_scaled():
    before, after = RULES.read_text(), scaled(RULES.read_text())
    changed = [
        (old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new
    ]
    # Every `for`, every range and every number that is a span.
    spans = len(re.findall(r"for: \d", before)) + len(re.findall(r"\[\d+m\]", before))
    assert 25 < len(changed) <= spans + 3, changed
    number = re.compile(r"\d+(?:\.\d+)?(?:ms|[smh])?")
    for old, new in changed:
        assert number.sub("", old) == number.sub("", new), (old, new)
    assert f"[{5 * 60_000 // FACTOR}ms]" in after and "[5m]" not in after
