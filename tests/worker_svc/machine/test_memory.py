"""What is free of a machine's memory."""

from __future__ import annotations

from pathlib import Path

from worker_svc.machine.memory import cgroup_free_bytes


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    assert cgroup_free_bytes(tmp_path) is None
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\nactive_file 50\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert cgroup_free_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert cgroup_free_bytes(tmp_path) == 450
    (tmp_path / "memory.max").write_text("400\n")
    assert cgroup_free_bytes(tmp_path) == 0
