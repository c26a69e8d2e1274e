"""Certificates and tokens, read from files that may change: what servers and clients share."""
