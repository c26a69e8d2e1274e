"""The clients themselves; what they take and give is in ``stepserve`` beside them."""

from stepserve.client.aio import AsyncClient
from stepserve.client.blocking import Client

__all__ = ["AsyncClient", "Client"]
