"""For the mutants, which need to know that a test fails, not the smallest case of it."""

from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=(Phase.explicit, Phase.generate))
