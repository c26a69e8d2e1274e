"""A small Llama of our own that tells little stories, and the grammar that it learnt from."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
