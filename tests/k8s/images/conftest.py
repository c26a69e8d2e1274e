"""Images that are built once, and a cluster of the overlay `dev` that runs them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.k8s.conftest import Render
from tests.k8s.images.build import Store
from tests.k8s.images.cluster import Cluster
from tests.k8s.images.policies import Endpoint, endpoint, flows
from tests.k8s.images.tools import require
from tests.k8s.objects import REDIS, SCHEDULER, WORKER, of_kind

BASE = "localhost/base:1"
# By the tags that `dev` names; Debian's Redis stands in for the one that is fetched elsewhere.
IMAGES = {
    REDIS: "localhost/redis:7.2.11",
    SCHEDULER: "localhost/stepserve-scheduler:0.1.0",
    WORKER: "localhost/stepserve-worker:0.1.0-cpu",
}
CLIENT = Endpoint("client", "elsewhere", {}, {})


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Every image, of a base that is made here; the times and sizes are printed."""
    require()
    directory = tmp_path_factory.mktemp("images")
    store = Store(directory)
    try:
        _build(store, directory)
        yield store
    finally:
        store.close()
        shutil.rmtree(directory)


def _build(store: Store, directory: Path) -> None:
    started = time.monotonic()

    def tell(what: str, image: str | None = None) -> None:
        nonlocal started
        size = f", {store.size_bytes(image) / 1e6:.0f} MB" if image else ""
        print(f"{what}: {time.monotonic() - started:.0f} s{size}", flush=True)
        started = time.monotonic()

    store.debootstrap(BASE)
    tell("base", BASE)
    store.redis(BASE, IMAGES[REDIS])
    tell("redis", IMAGES[REDIS])
    for service, name in (("scheduler", SCHEDULER), ("worker", WORKER)):
        home = directory / service
        store.fetch(BASE, service, home)
        tell(f"{service}: wheels")
        store.build(service, IMAGES[name], BASE, home)
        tell(f"{service}: image", IMAGES[name])
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def cluster(
    store: Store, render: Render, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """One pod of each workload, ready, in a network that lets through what the policies name."""
    objects = render("dev")
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), store, objects)
    try:
        cluster.join([*IMAGES, CLIENT.name])
        policies = of_kind(objects, "NetworkPolicy").values()
        pods = [*(endpoint(objects, name) for name in IMAGES), CLIENT]
        cluster.network.restrict(flows(policies, pods))
        for name in IMAGES:
            cluster.start_workload(name)
        for name in IMAGES:
            cluster.wait_until_ready(name)
        yield cluster
    finally:
        cluster.close()
