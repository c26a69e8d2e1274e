"""Who asks, and what they may: API keys, the file that they are in, and the tenants they are of."""
