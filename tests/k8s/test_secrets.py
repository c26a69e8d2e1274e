"""Passwords and tokens come from Secrets; no command line and no ConfigMap holds one."""

from __future__ import annotations

import base64
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, ConnectionError

from scheduler_svc.queue.embedded import find_server
from tests.k8s.conftest import K8S, Render
from tests.k8s.objects import (
    REDIS,
    SCHEDULER,
    WORKER,
    Object,
    containers,
    generated,
    of_kind,
    pod_spec,
    service_container,
    workload,
    workloads,
)

WAIT_S = 20.0
PASSWORD = "development-only"


def secret_refs(container: Object) -> dict[str, tuple[str, str]]:
    """Return (secret, key) by the name of the variable that they are for."""
    refs = {
        each["name"]: each["valueFrom"]["secretKeyRef"]
        for each in container.get("env", [])
        if "valueFrom" in each
    }
    return {name: (ref["name"], ref["key"]) for name, ref in refs.items()}


def test_secrets_are_read_and_not_written_down(render: Render) -> None:
    objects = render("prod")
    assert not of_kind(objects, "Secret"), "whoever installs it makes them"
    scheduler = secret_refs(service_container(workload(objects, SCHEDULER)))
    assert scheduler["STEPSERVE_REDIS_URL"] == (REDIS, "url")
    redis = secret_refs(service_container(workload(objects, REDIS)))
    assert redis == {"REDISCLI_AUTH": (REDIS, "password")}
    for name in (SCHEDULER, WORKER, "stepserve-download"):
        found = secret_refs(service_container(workload(objects, name)))
        assert found["HF_TOKEN"] == ("stepserve-huggingface", "token")


def test_no_command_line_holds_a_secret(objects: list[Object]) -> None:
    for found in workloads(objects):
        for container in containers(found):
            line = " ".join([*container.get("command", []), *container.get("args", [])])
            assert not re.search(r"redis(s)?://|requirepass|token=|password", line, re.IGNORECASE)
            values = [each.get("value", "") for each in container.get("env", [])]
            assert not any("://" in value for value in values)
    for settings in of_kind(objects, "ConfigMap").values():
        assert not any("requirepass" in text for text in settings["data"].values())


def test_the_page_makes_every_key_that_is_read(objects: list[Object]) -> None:
    page = (K8S / "README.md").read_text()
    for found in workloads(objects):
        for container in containers(found):
            for name, key in secret_refs(container).values():
                assert name.startswith(("stepserve-redis", "stepserve-huggingface"))
                assert re.search(rf"^ *{key}=", page, re.MULTILINE), key
        for volume in (pod_spec(found) or {})["volumes"]:
            secret = volume.get("secret", {})
            # Without the hash of a Secret that the overlay makes.
            name = re.sub(r"-[a-z0-9]{10}$", "", secret.get("secretName", ""))
            assert name in page
            for item in secret.get("items", []):
                assert item["key"] in page


def test_what_changes_rolls_the_pods(render: Render) -> None:
    """Names end with a hash of the contents, and the pods name them."""
    for variant in ("dev", "prod"):
        objects = render(variant)
        settings = generated(objects, "ConfigMap", "stepserve-settings")["metadata"]["name"]
        for name in (SCHEDULER, WORKER):
            container = service_container(workload(objects, name))
            assert {"configMapRef": {"name": settings}} in container["envFrom"]
        conf = generated(objects, "ConfigMap", REDIS)["metadata"]["name"]
        volumes = (pod_spec(workload(objects, REDIS)) or {})["volumes"]
        assert {"configMap": {"name": conf}, "name": "conf"} in volumes


@contextmanager
def served(conf: Path) -> Iterator[None]:
    process = subprocess.Popen([find_server(), conf], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(WAIT_S)


def connected(path: Path, password: str | None) -> Redis:
    """Wait until it answers. Raises AuthenticationError where it wants another password."""
    give_up_s = time.monotonic() + WAIT_S
    while True:
        try:
            client = Redis(unix_socket_path=str(path), password=password)
            client.ping()
        except ConnectionError as error:
            if isinstance(error, AuthenticationError) or time.monotonic() > give_up_s:
                raise
            time.sleep(0.05)
        else:
            return client


def test_redis_keeps_what_it_is_told_behind_a_password(render: Render, tmp_path: Path) -> None:
    """A real server reads the configuration that the pod has, and the dev overlay's Secret."""
    objects = render("dev")
    secret = generated(objects, "Secret", REDIS)["data"]
    told = {key: base64.b64decode(value).decode() for key, value in secret.items()}
    assert (told["password"], told["url"]) == (PASSWORD, f"redis://:{PASSWORD}@{REDIS}:6379/0")
    container = service_container(workload(objects, REDIS))
    conf_at = Path(container["command"][1])
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert (mounts["/data"], mounts[str(conf_at.parent)]) == ("data", "conf")
    conf = generated(objects, "ConfigMap", REDIS)["data"][conf_at.name]
    for name, path in (("/data", tmp_path), ("/etc/redis/auth", tmp_path)):
        assert name in mounts
        assert name in conf
        conf = conf.replace(name, str(path))
    socket = tmp_path / "redis.sock"
    (tmp_path / "auth.conf").write_text(told["auth.conf"])
    (tmp_path / "redis.conf").write_text(f"port 0\nunixsocket {socket}\n{conf}")
    with served(tmp_path / "redis.conf"):
        with connected(socket, PASSWORD) as client:
            for name, value in {
                "appendonly": "yes",
                "appendfsync": "everysec",
                "maxmemory": str(2 * 2**30),
                "maxmemory-policy": "noeviction",
                "save": "",
                "dir": str(tmp_path),
            }.items():
                assert client.config_get(name) == {name: value}
        with pytest.raises(AuthenticationError):
            connected(socket, None)


def test_redis_behind_tls(render: Render) -> None:
    objects = render("tls")
    container = service_container(workload(objects, REDIS))
    conf = generated(objects, "ConfigMap", REDIS)["data"][Path(container["command"][1]).name]
    options = dict(line.split(" ", 1) for line in conf.splitlines() if not line.startswith("#"))
    assert options["include"] == "/etc/redis/conf/redis.conf", "and all that holds without TLS"
    assert options["port"] == "0", "nobody is served without"
    assert options["tls-port"] == str(container["ports"][0]["containerPort"])
    for name in ("tls-cert-file", "tls-key-file", "tls-ca-cert-file"):
        assert options[name].startswith("/etc/redis/tls/")
    for probe in ("startupProbe", "readinessProbe"):
        assert "--tls --cacert /etc/redis/tls/ca.crt" in container[probe]["exec"]["command"][2]
    # Nobody but Redis reads its key.
    [volume] = [
        volume
        for volume in (pod_spec(workload(objects, SCHEDULER)) or {})["volumes"]
        if volume.get("secret", {}).get("secretName") == "stepserve-redis-tls"
    ]
    assert [item["key"] for item in volume["secret"]["items"]] == ["ca.crt"]
