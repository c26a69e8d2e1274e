"""A small Llama of our own that tells little stories, and the grammar that it learnt from."""
