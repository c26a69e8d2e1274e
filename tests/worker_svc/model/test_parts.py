"""A stage reads its own tensors and no others; all of them have one fingerprint."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepserve.modelfiles.directory import CheckpointError
from tests.checkpoints import make_checkpoint
from worker_svc.kernels import select
from worker_svc.model import loading
from worker_svc.model.loading import load_model
from worker_svc.model.part import Part
from worker_svc.model.share import Digests, Share

TORCH = select("torch", "cpu")


def digests_of(checkpoint: Path, part: Part) -> Digests:
    """What a part reads."""
    read: Digests = {}

    def note(digests: Digests) -> Digests:
        read.update(digests)
        return digests

    load_model(checkpoint, "float32", "cpu", TORCH, share=Share(part, digests=note))
    return read


@pytest.mark.parametrize("variant", ["llama", "qwen2-tied"])
def test_parts_read_their_own_and_have_one_fingerprint(tmp_path: Path, variant: str) -> None:
    checkpoint = make_checkpoint(tmp_path / variant, variant)
    whole = load_model(checkpoint, "float32", "cpu", TORCH)
    parts = [Part(stage, 2) for stage in range(2)]
    first, last = (digests_of(checkpoint, part) for part in parts)
    layers = [{name.split(".")[2] for name in read if ".layers." in name} for read in (first, last)]
    assert layers == [{"0", "1"}, {"2"}]
    both = {"model.embed_tokens.weight"} if variant == "qwen2-tied" else set()
    assert first.keys() & last.keys() == both
    assert "model.norm.weight" not in first
    told = first | last
    for part in parts:
        share = Share(part, digests=lambda _: told)
        model = load_model(checkpoint, "float32", "cpu", TORCH, share=share)
        assert model.fingerprint == whole.fingerprint
        assert model.cache_shape(4).num_layers == len(part.layers(3))


def test_only_what_is_read_has_to_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_checkpoint(tmp_path / "llama", "llama")
    num_bytes = (checkpoint / "model.safetensors").stat().st_size
    monkeypatch.setattr(loading, "free_bytes", lambda _: num_bytes * 3 // 4)
    with pytest.raises(CheckpointError, match="for its weights"):
        load_model(checkpoint, "float32", "cpu", TORCH, max_context=8)
    for stage in range(2):
        load_model(checkpoint, "float32", "cpu", TORCH, 8, Share(Part(stage, 2)))


def test_every_stage_needs_a_layer(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "llama", "llama")
    with pytest.raises(CheckpointError, match="--pipeline-stages 4: llama has 3 layers"):
        load_model(checkpoint, "float32", "cpu", TORCH, share=Share(Part(0, 4)))
