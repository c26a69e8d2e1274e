"""Kernels: one meaning each, in Triton for GPUs, compiled for CPUs where it pays, and in torch."""

from worker_svc.kernels.ragged import Ragged
from worker_svc.kernels.rotary import RotaryWrite
from worker_svc.kernels.select import Kernels, KernelsUnavailable, select

__all__ = ["Kernels", "KernelsUnavailable", "Ragged", "RotaryWrite", "select"]
