"""Watching long work from beside it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def every(seconds: float, look: Callable[[], None]) -> Iterator[None]:
    """Call `look` every so many seconds, in a thread of its own, while the body runs."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(seconds):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Board:
    """Where work in another process writes the last line of its log: run it as a Ray actor."""

    def __init__(self) -> None:
        self.line: dict[str, Any] = {}

    def write(self, line: dict[str, Any]) -> None:
        """Replace the line."""
        self.line = line

    def read(self) -> dict[str, Any]:
        """The last line, empty before the first."""
        return self.line
