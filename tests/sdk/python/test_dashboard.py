"""The dashboard and the rules against a scrape: whatever they name is there."""

import json
import re

import pytest
import yaml

from harness import Stack, wait_until
from prometheus import ROOT, RULES, Prometheus, scaled
from promql import names
from scenarios import TIGHT, Load

DASHBOARD = json.loads((ROOT / "config/grafana/dashboards/tidegate.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [
    pytest.param(panel, target, id=f"{panel['title']}-{target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]
# With time scaled as in the server that they are asked of.
RULE_LIST = [rule for group in yaml.safe_load(scaled(RULES.read_text()))["groups"] for rule in group["rules"]]
VARIABLES = {
    "$__rate_interval": "20s",
    "$instance": ".*",
    "$pool": ".*",
}
# Prometheus' own.
FOREIGN = {"up", "ALERTS"}


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """A Prometheus with a gateway that has had some traffic, and the text of a scrape."""
    directory = tmp_path_factory.mktemp("stack")
    model = {"output_reservation": {"default": 100}, "prompt_estimate": TIGHT}
    limits = [
        {"unit": unit, "limit": 1_000_000, "per": per, "mode": "bucket"}
        for unit in ("requests", "tokens")
        for per in ("1m", "1h", "1d")
    ]
    config = {
        "models": {"*": {**model, "limits": limits}},
        "state": {"dir": str(directory / "state")},
        "fallback": [{"name": "other", "for": "*", "model": "other"}],
    }
    stack = Stack(directory, config=config)
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), scaled(RULES.read_text()))
    load = Load(stack.via, every=0.2)
    try:
        prometheus.scrape(stack.gateway.admin.removeprefix("http://"))
        records = [rule["record"] for rule in RULE_LIST if "record" in rule]
        wait_until(lambda: all(map(prometheus.query, records)), "everything that is recorded")
        yield prometheus, stack.gateway.page("/metrics")
    finally:
        load.stop()
        prometheus.stop()
        stack.stop()


def filled(expression: str) -> str:
    """The expression with a value for each of the dashboard's variables."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def check(prometheus: Prometheus, expression: str) -> set[str]:
    """Everything that the expression names has to be there; the labels of the series that it selects."""
    selectors, grouped = names(expression)
    assert selectors, expression
    known = set()
    for selector in selectors:
        if selector.metric in FOREIGN:
            known |= {"instance", "job", "alertname", "severity"}
            continue
        every = prometheus.ask("series", **{"match[]": selector.metric})
        assert every, f"no such metric: {selector.metric} in {expression}"
        known |= {label for series in every for label in series}
        assert prometheus.ask("series", **{"match[]": str(selector)}), f"nothing is selected: {selector}"
        for label, operator, value in selector.matchers:
            assert all(label in series for series in every), f"no label {label}: {selector}"
            values = {series[label] for series in every}
            # Each of those listed, and also what is left out: a value that is not there is a mistake.
            for one in value.split("|") if "~" in operator else [value]:
                assert any(re.fullmatch(one, it) for it in values), f"no {label} is {one!r}: {selector}"
    assert grouped <= known, f"no series has {grouped - known}: {expression}"
    # It parses, and it can be evaluated.
    assert prometheus.ask("format_query", query=expression)
    prometheus.query(expression)
    return known


@pytest.mark.parametrize("panel, target", QUERIES)
def test_a_panel_asks_for_what_is_there(scraped, panel, target):
    prometheus, _ = scraped
    expression = filled(target["expr"])
    check(prometheus, expression)
    legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    samples = prometheus.query(expression)
    assert samples, f"nothing to see: {expression}"
    for sample in samples:
        assert legend <= sample["metric"].keys(), f"{panel['title']}: {target['legendFormat']}"


@pytest.mark.parametrize("rule", RULE_LIST, ids=[it.get("alert") or it["record"] for it in RULE_LIST])
def test_a_rule_asks_for_what_is_there(scraped, rule):
    prometheus, _ = scraped
    known = check(prometheus, rule["expr"])
    told = set(re.findall(r"\$labels\.(\w+)", str(rule.get("annotations", ""))))
    assert told <= known


def test_the_dashboard_and_the_rules_leave_no_metric_out(scraped):
    _, scrape = scraped
    families = set(re.findall(r"^# TYPE (\w+)", scrape, re.MULTILINE))
    asked = [filled(target["expr"]) for panel in PANELS for target in panel["targets"]]
    asked += [rule["expr"] for rule in RULE_LIST]
    used = {re.sub(r"_(bucket|sum|count)$", "", it.metric) for expression in asked for it in names(expression)[0]}
    assert families - used == set()


def test_the_variables_list_what_is_there(scraped):
    prometheus, _ = scraped
    variables = DASHBOARD["templating"]["list"]
    assert {f"${it['name']}" for it in variables} | {"$__rate_interval"} == set(VARIABLES)
    for variable in variables:
        query = variable["query"]["query"]
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
        assert found[2] in check(prometheus, filled(found[1])), query


def test_the_dashboard_is_well_made():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["title"] and panel["fieldConfig"]["defaults"]["unit"], panel
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        "Quota",
        "Queue",
        "Wait",
        "Tenants",
        "Upstream and 429s",
        "Estimates",
        "Batches",
        "Store and shared quota",
        "Gateway",
    ]


def test_grafana_is_given_the_dashboard_and_where_to_ask():
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    mounts = dict(volume.split(":")[1::-1] for volume in service["volumes"])
    providers = yaml.safe_load((ROOT / "config/grafana/provisioning/dashboards/tidegate.yml").read_text())
    (provider,) = providers["providers"]
    directory = ROOT / mounts[provider["options"]["path"]]
    assert [path.name for path in directory.iterdir()] == ["tidegate.json"]
    home = service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/tidegate.json"
    assert mounts["/etc/grafana/provisioning"] == "./config/grafana/provisioning"
    sources = yaml.safe_load((ROOT / "config/grafana/provisioning/datasources/prometheus.yml").read_text())
    known = {source["uid"] for source in sources["datasources"]}
    asked = {it["datasource"]["uid"] for panel in PANELS for it in (panel, *panel["targets"])}
    asked |= {it["datasource"]["uid"] for it in DASHBOARD["templating"]["list"]}
    asked |= {it["datasource"]["uid"] for it in DASHBOARD["annotations"]["list"]}
    assert asked == known


def test_prometheus_is_given_the_rules():
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["prometheus"]
    assert "./config/prometheus:/etc/prometheus:ro" in service["volumes"]
    config = yaml.safe_load((ROOT / "config/prometheus/prometheus.yml").read_text())
    assert config["rule_files"] == ["alerts.yml"]


@pytest.mark.parametrize(
    "expression, selectors, grouped",
    [
        ("up", ["up"], set()),
        ('rate(a_total{b="c",d=~"e|f"}[5m])', ['a_total{b="c",d=~"e|f"}'], set()),
        ("sum by (le, x) (rate(a_bucket[20s]))", ["a_bucket"], {"le", "x"}),
        ("sum(a) by (x) / on (y) group_left (z) b", ["a", "b"], {"x", "y", "z"}),
        ("a:b:c > 3600 and max_over_time(d{e!='f'}[5m:1s]) == bool 1", ["a:b:c", 'd{e!="f"}'], set()),
        ("time() - max(a > 0) or absent(b{c=`d`})", ["a", 'b{c="d"}'], set()),
    ],
)
def test_what_an_expression_names_is_found(expression, selectors, grouped):
    found, labels = names(expression)
    assert ([str(it) for it in found], labels) == (selectors, grouped)


@pytest.mark.parametrize(
    "expression",
    [
        "tidegate_no_such_metric",
        'tidegate_requests_total{outcome="no-such-outcome"}',
        'tidegate_requests_total{outcome=~"completed|no-such-outcome"}',
        'tidegate_requests_total{outcome!="no-such-outcome"}',
        'tidegate_requests_total{no_such_label!="x"}',
        "sum by (no_such_label) (tidegate_requests_total)",
    ],
)
def test_what_is_not_there_is_noticed(scraped, expression):
    prometheus, _ = scraped
    with pytest.raises(AssertionError):
        check(prometheus, expression)
