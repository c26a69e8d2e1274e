"""Kernels: one meaning each, in Triton for GPUs, compiled for CPUs where it pays, and in torch."""

from worker_svc.kernels.attention_grouped import Groups
from worker_svc.kernels.attention_padded import Rectangle
from worker_svc.kernels.ragged import Ragged
from worker_svc.kernels.rotary import HeadNorms, RotaryWrite
from worker_svc.kernels.select import Context, Kernels, KernelsUnavailable, select

__all__ = [
    "Context",
    "Groups",
    "HeadNorms",
    "Kernels",
    "KernelsUnavailable",
    "Ragged",
    "Rectangle",
    "RotaryWrite",
    "select",
]
