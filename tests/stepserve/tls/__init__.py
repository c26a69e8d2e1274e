"""Certificates and tokens, and what becomes of them when their files change."""
