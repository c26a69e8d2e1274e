"""``stepserve chaos``: a real service is broken on purpose, and every token is accounted for."""
