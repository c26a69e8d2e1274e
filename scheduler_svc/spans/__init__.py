"""Traces of jobs, by OpenTelemetry, where they are wanted."""
