"""The model comes into a volume once, whole, and everybody waits for it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.k8s.conftest import Render
from tests.k8s.objects import (
    SCHEDULER,
    WORKER,
    Object,
    generated,
    of_kind,
    pod_spec,
    service_container,
    settings_of,
    workload,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = b'{"model_type": "qwen3"}'


def mounted(container: Object, name: str) -> Object:
    [mount] = [each for each in container["volumeMounts"] if each["name"] == name]
    assert isinstance(mount, dict)
    return mount


def test_what_is_served_is_what_was_downloaded(render: Render) -> None:
    objects = render("prod")
    model = generated(objects, "ConfigMap", "stepserve-model")
    settings = settings_of(objects)
    assert settings["STEPSERVE_MODEL"] == model["data"]["MODEL_DIRECTORY"]
    assert settings["STEPSERVE_MODEL_NAME"] == Path(settings["STEPSERVE_MODEL"]).name
    reference = {"configMapRef": {"name": model["metadata"]["name"]}}
    download = service_container(workload(objects, "stepserve-download"))
    assert reference in download["envFrom"]
    root = mounted(download, "models")["mountPath"]
    assert settings["STEPSERVE_MODEL"].startswith(f"{root}/")
    claim = of_kind(objects, "PersistentVolumeClaim")["stepserve-models"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name in (SCHEDULER, WORKER):
        pod = pod_spec(workload(objects, name)) or {}
        [first] = pod["initContainers"]
        assert reference in first["envFrom"]
        for container in (first, service_container(workload(objects, name))):
            mount = mounted(container, "models")
            assert (mount["mountPath"], mount["readOnly"]) == (root, True)


def script_of(container: Object) -> str:
    assert container["command"] == ["sh", "-ec"]
    [script] = container["args"]
    assert isinstance(script, str)
    return script


class Hub(BaseHTTPRequestHandler):
    """So much of the hub as one small model needs."""

    def do_HEAD(self) -> None:
        self._answer(is_head=True)

    def do_GET(self) -> None:
        self._answer(is_head=False)

    def _answer(self, is_head: bool) -> None:
        if self.path.startswith("/api/models/o/n/revision/main"):
            told = {"id": "o/n", "sha": COMMIT, "siblings": [{"rfilename": "config.json"}]}
            body = json.dumps(told).encode()
        elif self.path.startswith("/api/models/o/n/tree/"):
            entry = {
                "type": "file",
                "path": "config.json",
                "size": len(CONFIG),
                "oid": hashlib.sha1(CONFIG).hexdigest(),
            }
            body = json.dumps([entry]).encode()
        else:
            body = CONFIG
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", hashlib.sha1(CONFIG).hexdigest())
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not is_head:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.long
def test_the_download_really_downloads_and_marks_what_is_whole(
    render: Render, hub: str, tmp_path: Path
) -> None:
    """The pods' own lines, run by a shell, against a small hub."""
    objects = render("prod")
    directory = tmp_path / "models" / "n"
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_ENDPOINT": hub,
        "HF_HOME": str(tmp_path / "cache"),
        "MODEL_ID": "o/n",
        "MODEL_REVISION": "main",
        "MODEL_DIRECTORY": str(directory),
    }
    pod = pod_spec(workload(objects, WORKER)) or {}
    waiting = subprocess.Popen(["sh", "-ec", script_of(pod["initContainers"][0])], env=environment)
    try:
        script = script_of(service_container(workload(objects, "stepserve-download")))
        broken = environment | {"MODEL_ID": "no such id"}
        assert subprocess.run(["sh", "-ec", script], env=broken, check=False).returncode != 0
        assert not (directory / ".complete").exists()
        assert waiting.poll() is None
        subprocess.run(["sh", "-ec", script], env=environment, check=True, timeout=120)
        assert (directory / "config.json").read_bytes() == CONFIG
        assert waiting.wait(20) == 0
    finally:
        waiting.kill()
        waiting.wait()
