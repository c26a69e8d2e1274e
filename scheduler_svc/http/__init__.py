"""HTTP as OpenAI's clients speak it: an edge of the front end, and no more than that."""
