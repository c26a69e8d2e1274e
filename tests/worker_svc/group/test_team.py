"""What ranks find out about each other before they compute."""

from __future__ import annotations

import json

import pytest
import torch.distributed as dist

from worker_svc.errors import WorkerUnavailable
from worker_svc.group.place import Place
from worker_svc.group.team import Team

FLAGS = {"block_size": 16, "max_context": None}


def second_of_two(flags_of_the_first: dict[str, object]) -> Team:
    """A rank that has met another one, which has told its flags."""
    team = Team.__new__(Team)
    team.place, team._store = Place(1, 2, 1, 0, 1, "", 0), dist.HashStore()
    team._store.set("flags/0", json.dumps(flags_of_the_first))
    return team


def test_machines_with_other_limits_than_the_first_are_refused() -> None:
    second_of_two(FLAGS).check_same(FLAGS)
    with pytest.raises(WorkerUnavailable, match="--max-context: None where rank 0 has 64: all"):
        second_of_two({**FLAGS, "max_context": 64}).check_same(FLAGS)
