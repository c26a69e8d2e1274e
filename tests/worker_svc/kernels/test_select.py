"""Kernels are chosen by name; what can't run says why."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from worker_svc.kernels import KernelsUnavailable, select
from worker_svc.kernels.attention_grouped import grouped_attention
from worker_svc.kernels.attention_padded import padded_attention


@pytest.mark.parametrize(
    ("name", "device", "chosen"),
    [("auto", "cpu", "cpu"), ("cpu", torch.device("cpu"), "cpu"), ("torch", "cpu", "torch")],
)
def test_select(name: str, device: str | torch.device, chosen: str) -> None:
    assert select(name, device).name == chosen


@pytest.mark.parametrize(
    ("attention", "function"), [("grouped", grouped_attention), ("padded", padded_attention)]
)
def test_attention_that_gathers_leaves_the_other_kernels_as_they_are(
    attention: Literal["grouped", "padded"], function: Callable[..., Tensor]
) -> None:
    kernels = select("cpu", "cpu", attention)
    assert kernels.paged_attention is function
    assert kernels == replace(select("cpu", "cpu", "paged"), paged_attention=function)


def test_auto_on_a_gpu_is_triton() -> None:
    pytest.importorskip("triton")
    assert select("auto", "cuda").name == "triton"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kernels 'cuda'"):
        select("cuda", "cpu")


def test_triton_on_a_cpu_names_the_interpreter() -> None:
    pytest.importorskip("triton")
    with pytest.raises(KernelsUnavailable, match="TRITON_INTERPRET=1"):
        select("triton", "cpu")


def test_cpu_kernels_on_a_gpu_are_refused() -> None:
    with pytest.raises(KernelsUnavailable, match="device cuda"):
        select("cpu", "cuda")


HIDDEN = """
import sys
sys.modules["triton"] = sys.modules["numba"] = None
from worker_svc.kernels import KernelsUnavailable, select
assert select("torch", "cpu").name == "torch"
for name, device in (("cpu", "cpu"), ("triton", "cuda")):
    try:
        select(name, device)
    except KernelsUnavailable as error:
        print(error)
"""

LAZY = """
import sys
from worker_svc.kernels import select
select("torch", "cpu")
print([name for name in ("numba", "triton") if name in sys.modules])
"""


def run_script(script: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()


def test_without_triton_and_numba_the_references_serve() -> None:
    need_numba, need_triton = run_script(HIDDEN)
    assert need_numba.startswith("the cpu kernels need numba")
    assert need_triton.startswith("the triton kernels need triton")


def test_the_references_load_neither_triton_nor_numba() -> None:
    assert run_script(LAZY) == ["[]"]
