"""Prometheus's configuration and alerts, and Grafana's dashboard."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.deploy.deployment import ALERTS, DASHBOARD, PROMETHEUS, ROOT, documents, output_of, tool
from tests.deploy.metrics import ADDED_LABELS, COUNTERS, GAUGES, HISTOGRAMS, exposed
from tests.support.program import program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_METRIC: Final = re.compile(r"\b((?:transcription|process)_\w+)(?:\{([^}]*)\})?")
_LABEL: Final = re.compile(r"(\w+)\s*[=!]")
_GROUPING: Final = re.compile(r"\bby \(([^)]*)\)")
_TYPE: Final = re.compile(r"^# TYPE (transcription_\w+) (\w+)$", re.MULTILINE)
_PANELS_WITHOUT_QUERIES: Final = {"row"}


def alert_rules() -> list[dict[str, Any]]:
    (read,) = documents(ALERTS)
    return [rule for group in read["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return read


def panel_queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the title of each panel with each of its queries."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def unknown(query: str) -> set[str]:
    """Return the metrics and labels in a query that the service does not expose."""
    names = exposed()
    wrong, known = set(), set(ADDED_LABELS)
    for name, selectors in _METRIC.findall(query):
        if name not in names:
            wrong.add(name)
            continue
        labels = names[name] | ADDED_LABELS
        known |= labels
        wrong |= {f"{name}{{{label}}}" for label in _LABEL.findall(selectors) if label not in labels}
    grouped = {label.strip() for group in _GROUPING.findall(query) for label in group.split(",")}
    return wrong | (grouped - known)


def test_alerts_pass_promtool() -> None:
    output_of(tool("promtool"), "check", "rules", ALERTS)


def test_configuration_passes_promtool() -> None:
    output_of(tool("promtool"), "check", "config", "--syntax-only", PROMETHEUS)


def test_configuration_loads_the_alerts() -> None:
    (read,) = documents(PROMETHEUS)
    assert [PROMETHEUS.parent / name for name in read["rule_files"]] == [ALERTS]


def test_alerts_query_the_scraped_job() -> None:
    (read,) = documents(PROMETHEUS)
    scraped = {job["job_name"] for job in read["scrape_configs"]}
    assert set(re.findall(r'job="([^"]+)"', ALERTS.read_text(encoding="utf-8"))) == scraped


def test_alerts_fire_only_when_they_should() -> None:
    output_of(tool("promtool"), "test", "rules", ROOT / "tests" / "deploy" / "alerts_test.yml")


def test_each_alert_has_a_test_in_which_it_fires() -> None:
    seen = (ROOT / "tests" / "deploy" / "alerts_test.yml").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in alert_rules() if f'alertname="{rule["alert"]}"' not in seen] == []


@pytest.mark.parametrize("rule", alert_rules(), ids=lambda rule: str(rule["alert"]))
def test_alerts_use_exposed_metrics_and_have_descriptions(rule: dict[str, Any]) -> None:
    assert unknown(rule["expr"]) == set()
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description"}


def test_unknown_metrics_and_labels_are_detected() -> None:
    query = 'sum by (routes) (rate(transcription_http_requests_total{code="500"}[5m])) + transcription_job'
    assert unknown(query) == {"routes", "transcription_http_requests_total{code}", "transcription_job"}


def test_dashboard_uses_exposed_metrics(dashboard: dict[str, Any]) -> None:
    assert {title: unknown(query) for title, query in panel_queries(dashboard) if unknown(query)} == {}


def test_dashboard_shows_every_metric(dashboard: dict[str, Any]) -> None:
    queries = " ".join(query for _, query in panel_queries(dashboard))
    assert {name for name in GAUGES | COUNTERS | HISTOGRAMS if name not in queries} == set()


def test_dashboard_queries_pass_promtool(dashboard: dict[str, Any], tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, (_, query) in enumerate(panel_queries(dashboard))
    ]
    written = tmp_path / "rules.yml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in output_of(tool("promtool"), "check", "rules", written)


def test_panels_have_unique_ids_and_titles(dashboard: dict[str, Any]) -> None:
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert all(panel["title"] for panel in dashboard["panels"])


def test_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        position = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(position["x"], position["x"] + position["w"])
            for y in range(position["y"], position["y"] + position["h"])
        }
        assert position["x"] + position["w"] <= 24, panel["title"]
        assert not taken & cells, panel["title"]
        taken |= cells


def test_dashboard_queries_the_chosen_data_source(dashboard: dict[str, Any]) -> None:
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    shown = [panel for panel in dashboard["panels"] if panel["type"] not in _PANELS_WITHOUT_QUERIES]
    assert {panel["datasource"]["uid"] for panel in shown} == {"${datasource}"}
    named = set(re.findall(r"\$(?!_)(\w+)", " ".join(query for _, query in panel_queries(dashboard))))
    assert named <= variables.keys()


@pytest.mark.full(reason="takes more than a second")
def test_service_exposes_the_metrics(tmp_path: Path) -> None:
    with program(tmp_path, METRICS_KEY="key-of-prometheus") as running:
        running.until_ready()
        scraped = running.client.get("/metrics", headers={"Authorization": "Bearer key-of-prometheus"})
    assert scraped.status_code == 200
    kinds = dict(_TYPE.findall(scraped.text))
    expected = dict.fromkeys(GAUGES, "gauge") | dict.fromkeys(COUNTERS, "counter")
    expected |= dict.fromkeys(HISTOGRAMS, "histogram")
    assert {name: kind for name, kind in kinds.items() if not name.endswith("_created")} == expected
