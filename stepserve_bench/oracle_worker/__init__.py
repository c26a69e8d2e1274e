"""A worker without torch whose tokens anybody can compute: for schedulers under test and load."""
