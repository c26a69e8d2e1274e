from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from scheduler_svc.core.errors import IllegalMove, ProtocolError
from scheduler_svc.core.intake import sequences_of
from scheduler_svc.core.sequence import MOVES, Move, Sequence, State
from tests.scheduler_svc.core.build import job

LEGAL = [(state, move) for state, moves in MOVES.items() for move in moves]
ILLEGAL = [pair for pair in product(State, Move) if pair not in LEGAL]


def sequence(prompt: tuple[int, ...] = (1, 2, 3), **changes: Any) -> Sequence:
    (made,) = sequences_of(job("a", prompt, **changes), max_context=12)
    return made


@pytest.mark.parametrize(("state", "move"), LEGAL)
def test_a_legal_move_leads_where_the_table_says(state: State, move: Move) -> None:
    subject = sequence()
    subject.state = state
    subject.move(move)
    assert subject.state is MOVES[state][move]


@pytest.mark.parametrize(("state", "move"), ILLEGAL)
def test_a_missing_entry_is_the_error(state: State, move: Move) -> None:
    subject = sequence()
    subject.state = state
    with pytest.raises(IllegalMove, match=f"{move.name} while {state.name}"):
        subject.move(move)
    assert subject.state is state


def test_every_state_can_be_reached_and_only_gone_is_final() -> None:
    reached = {State.WAITING} | {to for moves in MOVES.values() for to in moves.values()}
    assert reached == set(State)
    assert [state for state, moves in MOVES.items() if not moves] == [State.GONE]


def test_the_output_it_has_counts_as_tokens_and_is_pending() -> None:
    subject = sequence(outputs={0: (8, 9)})
    assert subject.token_ids == [1, 2, 3, 8, 9]
    assert (subject.num_tokens, subject.num_outputs, subject.num_pending) == (5, 2, 5)


@pytest.mark.parametrize(("max_tokens", "max_length"), [(4, 7), (9, 12), (100, 12)])
def test_max_tokens_and_the_context_bound_its_length(max_tokens: int, max_length: int) -> None:
    assert sequence(max_tokens=max_tokens).max_length == max_length


def test_it_wants_no_block_for_the_last_token_it_may_choose() -> None:
    subject = sequence(prompt=tuple(range(1, 9)), max_tokens=1)
    subject.num_tokens = 9
    assert subject.is_full
    assert subject.num_blocks_wanted(4) == 2


def test_blocks_given_back_are_its_own() -> None:
    subject = sequence()
    subject.block_ids = [4, 5, 6]
    subject.give_back([6, 4])
    assert subject.block_ids == [5]
    with pytest.raises(ProtocolError, match="does not hold"):
        subject.give_back([4])


def test_an_admission_tells_it_in_full() -> None:
    subject = sequence(outputs={0: (8,)}, temperature=0.5, logprobs=2, stop_token_ids=(7,))
    subject.sequence_id = 3
    admission = subject.admission()
    subject.token_ids.append(9)
    assert (admission.sequence_id, admission.job_id, admission.index) == (3, "a", 0)
    assert admission.token_ids == (1, 2, 3, 8)
    assert admission.num_prompt_tokens == 3
    assert (admission.num_computed, admission.block_ids) == (0, ())
    assert admission.sampling.temperature == 0.5
    assert admission.sampling.logprobs == 2
    assert admission.sampling.stop_token_ids == (7,)


def test_every_sampling_value_reaches_the_worker() -> None:
    values = {
        "max_tokens": 5,
        "temperature": 0.1,
        "top_p": 0.2,
        "top_k": 3,
        "min_p": 0.4,
        "seed": 5,
        "stop_token_ids": (6,),
        "presence_penalty": 0.7,
        "frequency_penalty": 0.8,
        "repetition_penalty": 0.9,
        "logit_bias": ((1, 2.0),),
    }
    sampling = sequence(**values).sampling
    assert {name: getattr(sampling, name) for name in values} == values
    assert sampling.logprobs == -1


def test_only_outputs_that_have_not_ended_become_sequences() -> None:
    made = sequences_of(job("a", n=3, outputs={0: (5,), 1: (6, 7)}, ended=(0,)), max_context=12)
    assert [(s.index, s.num_outputs) for s in made] == [(1, 2), (2, 0)]
