"""Keys, the file that they are in, and who may what."""
