"""One life: whoever of a group dies, hangs or fails, all of it ends, and says why once.

Every rank says at each beat that it lives, in the store that the group met in, and looks at the
others. A second thread only counts its own beats since it heard of each: that a store which hangs
keeps the first one waiting is noticed too, and while we stand still ourselves nobody grows old.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Protocol

BEAT_S = 0.25
# Whoever is silent for so long is lost. While it loads, libraries may keep it from its threads.
MAX_SILENCE_S, MAX_SILENCE_AT_START_S = 2.0, 60.0
# For the last word to reach the store, and the others to find it there.
LAST_WORD_S = 0.3
# A group that ends as it should has ended by then.
AT_AN_END_S = 3.0
FAILURE = "failure"
# As in worker_svc.__main__: another group may do better.
EXIT_BROKEN = 3
# A rank is silent or gone, and nobody here knows why.
EXIT_LOST = 4
PROG = "stepserve worker"


class Board(Protocol):
    """Where ranks leave word for each other; every key has been set once."""

    def set(self, key: str, value: str, /) -> None: ...
    def multi_get(self, keys: list[str], /) -> list[bytes]: ...


def beat_key(rank: int) -> str:
    """The key under which a rank says that it lives."""
    return f"beat/{rank}"


class Life:
    """This rank's part in the group's life.

    Args:
        board: a connection of its own: nobody else waits on it.
        rank: who we are; 0 says for all why the group ends.
        names: every rank's name.
    """

    def __init__(self, board: Board, rank: int, names: Mapping[int, str]) -> None:
        self._board = board
        self._rank = rank
        self._names = names
        self._others = [other for other in names if other != rank]
        self._max_silence_s = MAX_SILENCE_AT_START_S
        # By rank: looks since it was heard of; None until it was heard of at all.
        self._silences: dict[int, int | None] = dict.fromkeys(self._others)
        self._unanswered = 0
        self._ending = threading.Lock()
        self._is_over = False

    def start(self) -> None:
        """Begin to beat and to look."""
        for run in (self._beat, self._watch):
            threading.Thread(target=run, daemon=True, name=run.__name__).start()

    def serve(self) -> None:
        """All have started: from now on silence is short."""
        self._max_silence_s = MAX_SILENCE_S

    def close(self) -> None:
        """The group ends as it should: nobody is missed any more."""
        self._is_over = True

    def fail(self, problem: str, status: int = EXIT_BROKEN) -> None:
        """End the group because of this ``problem``, one line. Does not return.

        Rank 0 says it; where it can't be told any more, we say it ourselves.
        """
        with self._ending:
            if self._is_over:
                time.sleep(AT_AN_END_S)
            told = threading.Event()
            word = f"{status} {problem}"
            threading.Thread(target=self._leave_word, args=(word, told), daemon=True).start()
            if not told.wait(LAST_WORD_S) or self._rank == 0:
                _say(problem)
            self._end_heard(status)

    def _leave_word(self, word: str, told: threading.Event) -> None:
        with contextlib.suppress(Exception):  # of torch: rank 0 has ended, and said why
            if not self._board.multi_get([FAILURE])[0]:
                self._board.set(FAILURE, word)
        told.set()

    def _end_heard(self, status: int) -> None:
        """Rank 0 has the store: what it holds is to be read before it ends."""
        if self._rank == 0:
            time.sleep(LAST_WORD_S)
        _end(status)

    def _beat(self) -> None:
        keys = [FAILURE, *map(beat_key, self._others)]
        before: list[bytes] = [b""] * len(self._others)
        number = 0
        while True:
            number += 1
            try:
                self._board.set(beat_key(self._rank), str(number))
                failure, *beats = self._board.multi_get(keys)
            except Exception:  # of torch; rank 0 has the store, and is gone with it
                self._lose(0, "has gone")
                return
            self._unanswered = 0
            if failure:
                self._obey(failure.decode(errors="replace"))
            for other, old, new in zip(self._others, before, beats, strict=True):
                if new != old:
                    self._silences[other] = 0
            before = beats
            time.sleep(BEAT_S)

    def _watch(self) -> None:
        while not self._is_over:
            time.sleep(BEAT_S)
            most = self._max_silence_s / BEAT_S
            self._unanswered += 1
            if self._unanswered > most:
                self._lose(0, "does not answer")
            for other, silence in self._silences.items():
                if silence is None:
                    continue
                self._silences[other] = silence + 1
                if silence > most:
                    self._lose(other, "does not answer")

    def _lose(self, rank: int, what: str) -> None:
        problem = f"{self._names[rank]} {what}"
        if self._is_over:
            return
        if rank != 0:
            self.fail(problem, EXIT_LOST)
        with self._ending:  # nobody can be told
            _say(problem)
            _end(EXIT_LOST)

    def _obey(self, word: str) -> None:
        """Another rank has failed."""
        with self._ending:
            status, _, problem = word.partition(" ")
            if self._is_over:
                time.sleep(AT_AN_END_S)
            if self._rank == 0:
                _say(problem)
            self._end_heard(int(status))


def _say(problem: str) -> None:
    print(f"{PROG}: {problem}", file=sys.stderr, flush=True)


def _end(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    # Whoever waits in a collective or for a device can't be interrupted.
    os._exit(status)
