"""Who reaches whom, by the network policies of each overlay."""

from __future__ import annotations

from tests.k8s.conftest import Render
from tests.k8s.images.policies import Endpoint, Flow, endpoint, flows
from tests.k8s.objects import REDIS, SCHEDULER, WORKER, Object, of_kind

CLIENT = Endpoint("client", "elsewhere", {}, {})
PROMETHEUS = Endpoint("prometheus", "monitoring", {}, {})


def let_through(objects: list[Object]) -> set[Flow]:
    pods = [endpoint(objects, name) for name in (SCHEDULER, WORKER, REDIS)]
    policies = of_kind(objects, "NetworkPolicy").values()
    return flows(policies, [*pods, CLIENT, PROMETHEUS])


CALLS = {
    Flow(SCHEDULER, REDIS, 6379),
    Flow(SCHEDULER, WORKER, 50061),
    Flow(WORKER, SCHEDULER, 50051),
    *(Flow(each.name, SCHEDULER, 50051) for each in (CLIENT, PROMETHEUS)),
}


def test_dev_lets_calls_through_and_nothing_else(render: Render) -> None:
    assert let_through(render("dev")) == CALLS


def test_prod_lets_prometheus_read_metrics_besides(render: Render) -> None:
    metrics = {Flow(PROMETHEUS.name, each, 9400) for each in (SCHEDULER, WORKER)}
    assert let_through(render("prod")) == CALLS | metrics


def test_without_policies_everything_is_let_through(render: Render) -> None:
    pods = [endpoint(render("dev"), name) for name in (SCHEDULER, WORKER, REDIS)]
    assert len(flows([], [*pods, CLIENT])) == 3 * 5
