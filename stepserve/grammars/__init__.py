"""What the text of an output has to be, compiled: the only door to llguidance."""
