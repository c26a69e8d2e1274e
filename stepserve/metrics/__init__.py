"""What a service tells of itself over HTTP: numbers for Prometheus, and its health."""
