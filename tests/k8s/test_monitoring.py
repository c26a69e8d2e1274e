"""The dashboard and the alerts: valid, and every metric that they name is one that we have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import promql_parser
import pytest
import yaml

from scheduler_svc.core.scheduler import Core
from scheduler_svc.http.meter import HttpMeter
from scheduler_svc.metrics.adapters import Adapters
from scheduler_svc.metrics.queue_meter import QueueMeter
from scheduler_svc.metrics.tenants import Tenants
from scheduler_svc.metrics.turns import Turns
from scheduler_svc.queue import Backlog, JobQueue
from stepserve.metrics.family import Family, Labels
from stepserve.protocol.step import WorkerInfo
from tests.k8s.conftest import K8S, Render
from tests.k8s.objects import (
    SCHEDULER,
    WORKER,
    of_kind,
    pod_labels,
    service_container,
    workload,
)
from tests.scheduler_svc.core.build import core_config
from worker_svc.engine import Engine
from worker_svc.machine.tally import Tally
from worker_svc.metrics import WorkerMetrics

SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}
# What Prometheus and Kubernetes add to a series of ours.
OF_TARGETS = {"namespace", "instance", "job", "model_name", "le"}
SPANS = {"$__rate_interval": "5m", "$namespace": ".*", "$model": ".*"}


class _Idle:
    """An engine that has done nothing."""

    tally = Tally()
    info = WorkerInfo("i", "m", "f", "float32", 10, 64, 4, 16, 4, 16, 64)
    is_stuck = False
    num_residents = 0


async def families() -> list[Family]:
    """Return every family that a service gives."""
    turns = Turns()
    config = core_config()
    async with JobQueue("unix:///nowhere", "m") as queue:
        meter = QueueMeter(queue, turns, Tenants(1))
        meter._backlog = Backlog(0.0, 0, 0, 0, 0, 0, 0)
        meter._read_s, meter._problem = float("inf"), ""
        with turns.lane(config) as lane:
            lane.observe((), (), Core(config))
            told = [*meter.families(), *turns.families(), *Adapters().families()]
            told += HttpMeter().families()
    return [*told, *WorkerMetrics(cast(Engine, _Idle())).families()]


@pytest.fixture
async def known() -> dict[str, set[str]]:
    """The labels of each series that we have, by its name."""
    by_name: dict[str, set[str]] = {"up": {"instance", "job"}}
    for family in await families():
        labels: set[Labels] = set(family.values)
        own = {key for each in labels for key, _ in each}
        for suffix in SUFFIXES[family.kind]:
            by_name[f"stepserve:{family.name}{suffix}"] = own | OF_TARGETS
    for name, label in (
        ("request_success_total", "finished_reason"),
        ("http_requests_total", "route"),
        ("http_requests_total", "method"),
        ("http_requests_total", "status"),
        ("http_request_duration_seconds_bucket", "route"),
        ("http_response_start_seconds_bucket", "route"),
        ("tenant_queue_depth", "tenant"),
        ("tenant_queue_age_seconds", "tenant"),
    ):
        by_name[f"stepserve:{name}"].add(label)  # none so far
    return by_name


def rules(render: Render) -> list[dict[str, Any]]:
    [found] = of_kind(render("prod"), "PrometheusRule").values()
    return [rule for group in found["spec"]["groups"] for rule in group["rules"]]


def dashboard(render: Render) -> dict[str, Any]:
    found = of_kind(render("prod"), "ConfigMap")["stepserve-dashboard"]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    [text] = found["data"].values()
    told = json.loads(text)
    assert isinstance(told, dict)
    return told


def queries_of(told: dict[str, Any]) -> Iterator[str]:
    for panel in told["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in SPANS.items():
                query = query.replace(name, value)
            yield query


def selectors(query: str) -> list[promql_parser.VectorSelector]:
    """Return the series that a query reads. Raises ValueError where it is none."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: object) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)
        return True

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def check(query: str, known: dict[str, set[str]]) -> None:
    read = selectors(query)
    assert read, f"reads nothing: {query}"
    for selector in read:
        name = str(selector.name)
        assert name in known, f"there is no {name}"
        for matcher in selector.matchers.matchers:
            assert matcher.name in known[name], f"{name} has no {matcher.name}"
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        for label in group.split(","):
            assert any(label.strip() in known[str(s.name)] for s in read), f"{label} in {query}"


def test_every_query_of_the_dashboard_reads_what_there_is(
    render: Render, known: dict[str, set[str]]
) -> None:
    queries = list(queries_of(dashboard(render)))
    assert len(queries) > 40
    for query in queries:
        check(query, known)


def test_every_rule_reads_what_there_is(render: Render, known: dict[str, set[str]]) -> None:
    for rule in rules(render):
        check(rule["expr"], known)
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"]["summary"]


def test_what_scales_workers_reads_what_there_is(
    render: Render, known: dict[str, set[str]]
) -> None:
    [trigger] = of_kind(render("prod"), "ScaledObject")[WORKER]["spec"]["triggers"]
    check(trigger["metadata"]["query"], known)


@pytest.mark.parametrize(
    "query", ["stepserve:no_such", "stepserve:lanes{shoe='1'}", "sum(", "sum by (x) (up)", "1 + 1"]
)
def test_what_is_wrong_is_found(query: str, known: dict[str, set[str]]) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check(query, known)


def test_the_dashboard_shows_every_metric_that_people_scale_by(render: Render) -> None:
    shown = " ".join(queries_of(dashboard(render)))
    for name in (
        "queue_depth", "queue_age_seconds", "tenant_queue_depth", "num_requests_running",
        "lane_requests_waiting", "kv_cache_usage_perc", "prefix_cache_hits_total",
        "worker_step_duration_seconds_bucket", "worker_device_busy_seconds_total",
        "generation_tokens_total", "time_to_first_token_seconds_bucket",
        "inter_token_latency_seconds_bucket", "num_preemptions_total", "recomputed_tokens_total",
        "takeovers_total", "adopted_sequences_total", "stale_commands_refused_total",
        "suspect_jobs", "commit_duration_seconds_bucket", "redis_call_duration_seconds_bucket",
    ):  # fmt: skip
        assert f"stepserve:{name}" in shown, name


async def test_the_page_lists_every_metric_and_its_help() -> None:
    page = (K8S.parent / "docs/metrics.md").read_text()
    listed = re.findall(
        r"^\| `(\w+)` \| (\w+) \| (.*?)(?: By `\w+`(?:, `\w+`)*\.)? \|$", page, re.MULTILINE
    )
    told = {
        (f"{each.name}_total" if each.kind == "counter" else each.name, each.kind, each.help)
        for each in await families()
    }
    assert set(listed) == told
    assert len(listed) == len(told)


def test_panels_have_places_of_their_own(render: Render) -> None:
    told = dashboard(render)
    ids = [panel["id"] for panel in told["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in told["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        taken |= cells


def test_monitors_find_the_services_and_their_ports(render: Render) -> None:
    objects = render("prod")
    for name in (SCHEDULER, WORKER):
        monitor = of_kind(objects, "ServiceMonitor")[name]["spec"]
        service = of_kind(objects, "Service")[name]
        assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        [endpoint] = monitor["endpoints"]
        assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
        container = service_container(workload(objects, name))
        assert {"name": "metrics", "containerPort": 9400} in container["ports"]


def test_prometheus_may_come_to_the_metrics_and_nowhere_else(render: Render) -> None:
    objects = render("prod")
    spec = of_kind(objects, "NetworkPolicy")["stepserve-metrics"]["spec"]
    [expression] = spec["podSelector"]["matchExpressions"]
    [rule] = spec["ingress"]
    assert rule["ports"] == [{"port": "metrics"}]
    [source] = rule["from"]
    namespace = source["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    for name in (SCHEDULER, WORKER):
        assert pod_labels(workload(objects, name))[expression["key"]] in expression["values"]
    [trigger] = of_kind(objects, "ScaledObject")[WORKER]["spec"]["triggers"]
    assert f".{namespace}.svc:" in trigger["metadata"]["serverAddress"]


def test_promtool_finds_nothing(render: Render, tmp_path: Path) -> None:
    """And by its own evaluation alerts fire, and workers follow the backlog, when they should."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on the PATH (Debian has it in prometheus)")
    [found] = of_kind(render("prod"), "PrometheusRule").values()
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(found["spec"]))
    [trigger] = of_kind(render("prod"), "ScaledObject")[WORKER]["spec"]["triggers"]
    tests = (Path(__file__).parent / "rules_test.yaml").read_text()
    tests = tests.replace("QUERY", json.dumps(trigger["metadata"]["query"]))
    (tmp_path / "tests.yaml").write_text(tests)
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "tests.yaml"]):
        done = subprocess.run(
            [promtool, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
