"""Which part of a model a process has: the layers of a stage, the heads and columns of a rank."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One process's part of a model that several compute together; by default all of it.

    ``num_stages`` stages have its layers one after another (pipeline), and in each of them
    ``num_ranks`` ranks have every layer's heads and columns side by side (tensor parallelism).
    """

    stage: int = 0
    num_stages: int = 1
    rank: int = 0
    num_ranks: int = 1

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the model."""
        return self.num_stages * self.num_ranks == 1

    @property
    def name(self) -> str:
        """What it is called in messages: with its rank where stages have several."""
        stage = f"stage {self.stage} of {self.num_stages}"
        return stage if self.num_ranks == 1 else f"rank {self.rank} of {self.num_ranks} in {stage}"

    @property
    def is_first(self) -> bool:
        """Whether it has the embedding."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether it has the final norm and the vocabulary, hence samples."""
        return self.stage == self.num_stages - 1

    @property
    def stage_alone(self) -> Part:
        """Its stage, as one process would have it."""
        return Part(self.stage, self.num_stages)

    def layers(self, num_layers: int, head_layers: float = 0.0) -> range:
        """The layers of its stage, such that the longest stage is as short as it can be.

        The last one has the vocabulary's product too, as much work as ``head_layers`` layers. The
        others are as even as it goes, the last of them have fewer.
        """
        others = self.num_stages - 1
        if not others:
            return range(num_layers)

        def longest(last: int) -> float:
            return max(-(-(num_layers - last) // others), last + head_layers)

        # Each has one at least.
        last = min(range(1, num_layers - others + 1), key=longest)
        fewest, more = divmod(num_layers - last, others)
        begin = self.stage * fewest + min(self.stage, more)
        return range(begin, num_layers if self.is_last else begin + fewest + (self.stage < more))
