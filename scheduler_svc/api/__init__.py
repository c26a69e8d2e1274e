"""The service that clients talk to: requests in, jobs into Redis, token logs out as streams."""
