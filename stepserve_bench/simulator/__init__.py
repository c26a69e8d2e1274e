"""A discrete-event simulator that drives the real core in virtual time."""
