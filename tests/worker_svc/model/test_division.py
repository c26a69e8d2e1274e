"""What each rank reads of a checkpoint, and what ranks cannot divide."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stepserve.modelfiles.directory import CheckpointError
from tests.checkpoints import lone_logits
from tests.worker_svc.model.conftest import CheckpointOf
from tests.worker_svc.model.paged import PagedModel, random_tokens
from tests.worker_svc.ranks import RankThreads, load_ranks
from worker_svc.kernels import select
from worker_svc.kernels.ranks import GroupRanks
from worker_svc.model.config import read_config
from worker_svc.model.division import Division
from worker_svc.model.loading import load_model
from worker_svc.model.part import Part
from worker_svc.model.share import Share
from worker_svc.model.weights import Targets, allocate

TORCH = select("torch", "cpu")
FLOAT = torch.float32


def parts(num_ranks: int) -> list[Part]:
    return [Part(rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]


def expected(directory: Path, part: Part) -> Targets:
    targets = Targets(FLOAT, torch.device("meta"))
    allocate(read_config(directory), None, targets, part)
    return targets


@pytest.mark.parametrize(("variant", "num_ranks"), [("llama-biases", 2), ("mistral", 4)])
def test_every_number_is_read_once_but_for_norms_and_shared_heads(
    checkpoint_of: CheckpointOf, variant: str, num_ranks: int
) -> None:
    directory = checkpoint_of(variant)
    whole = expected(directory, Part())
    counts = {name: torch.zeros(piece.view.shape) for name, piece in whole.pieces.items()}
    for part in parts(num_ranks):
        for name, piece in expected(directory, part).pieces.items():
            assert piece.stored_shape == tuple(counts[name].shape)
            assert piece.view.shape == counts[name][piece.slices].shape
            counts[name][piece.slices] += 1
    for name, count in counts.items():
        is_norm = "norm" in name
        is_shared = variant == "mistral" and ("k_proj" in name or "v_proj" in name)
        assert bool((count == (num_ranks if is_norm or is_shared else 1)).all()), name


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_rank_has_its_key_value_heads_queries(
    num_ranks: int, checkpoint_of: CheckpointOf
) -> None:
    config = read_config(checkpoint_of("llama"))
    for part in parts(num_ranks):
        division = Division.of(config, part)
        group = config.num_heads // config.num_kv_heads
        assert {head // group for head in division.heads.range} == {*division.kv_heads.range}


@pytest.mark.parametrize(
    ("variant", "num_ranks", "message"),
    [
        ("llama3-rope", 2, "5 attention heads (num_attention_heads) and 5 key-value heads (num"),
        ("qwen3-layer-types", 2, "has 3 key-value heads (num_key_value_heads): 2 ranks cannot"),
        ("mistral", 3, "has 4 attention heads (num_attention_heads) and 104 columns of the MLP ("),
        ("llama", 3, " and 136 columns of the MLP (intermediate_size) and 2 key-value heads"),
    ],
)
def test_what_ranks_cannot_divide_is_refused_by_name(
    checkpoint_of: CheckpointOf, variant: str, num_ranks: int, message: str
) -> None:
    share = Share(Part(rank=1, num_ranks=num_ranks))
    with pytest.raises(CheckpointError) as caught:
        load_model(checkpoint_of(variant), "float32", "cpu", TORCH, share=share)
    assert f"--tensor-parallel {num_ranks}: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_the_fingerprint_is_that_of_one_process(
    checkpoint_of: CheckpointOf, num_ranks: int
) -> None:
    for variant in ("qwen2-tied", "llama-yarn"):
        alone = load_model(checkpoint_of(variant), "float64", "cpu", TORCH)
        models = load_ranks(RankThreads(num_ranks), checkpoint_of(variant))
        assert {model.fingerprint for model in models} == {alone.fingerprint}


@pytest.mark.parametrize(("stage", "rank"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_rank_of_a_stage_hashes_its_part_of_the_stage(
    checkpoint_of: CheckpointOf, stage: int, rank: int
) -> None:
    told: list[dict[str, str]] = []

    def note(digests: dict[str, str]) -> dict[str, str]:
        told.append(digests)
        return digests

    part = Part(stage, 2, rank, 2)
    load_model(checkpoint_of("llama"), "float32", "cpu", TORCH, share=Share(part, digests=note))
    other = Part(stage, 2, 1 - rank, 2)
    load_model(checkpoint_of("llama"), "float32", "cpu", TORCH, share=Share(other, digests=note))
    assert not told[0].keys() & told[1].keys()
    whole = expected(checkpoint_of("llama"), Part(stage, 2))
    assert told[0].keys() | told[1].keys() == whole.pieces.keys()
    assert min(map(len, told)) > len(whole.pieces) // 4


@pytest.mark.parametrize(
    ("variant", "num_ranks"), [("qwen3-tied", 2), ("mistral", 4), ("llama-biases", 2)]
)
def test_logits_side_by_side_are_those_of_transformers(
    checkpoint_of: CheckpointOf, variant: str, num_ranks: int
) -> None:
    threads = RankThreads(num_ranks)
    models = load_ranks(threads, checkpoint_of(variant))
    prompt = random_tokens(models[0].vocab_size, 45, seed=1)

    def compute(ranks: GroupRanks) -> torch.Tensor:
        paged = PagedModel(models[ranks.rank], [prompt], block_size=16, seed=2)
        return torch.cat([paged.step([(paged.sequences[0], n)]) for n in (30, 14, 1)])

    logits = torch.cat(threads.run(compute), dim=1)
    want = lone_logits(checkpoint_of(variant), prompt, "float64")
    torch.testing.assert_close(logits, want, rtol=0, atol=1e-6)
