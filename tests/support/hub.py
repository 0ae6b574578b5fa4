"""A Hugging Face hub that never answers."""

import socket
import threading
from contextlib import contextmanager


@contextmanager
def hanging_hub(monkeypatch):
    """Within the block, host names hang when looked up, until the block ends."""
    begun, over = threading.Event(), threading.Event()

    def hang(*_args, **_options):
        begun.set()
        over.wait()
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr("circuits.storage.hub.HUB_SECONDS", 1.5)
    try:
        yield
        assert begun.wait(60), "the hub was never asked"
    finally:
        over.set()
