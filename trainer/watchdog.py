"""Nothing may hang for ever: a worker that makes no progress shows where it hangs and ends.

A collective that waits for a lost worker prints nothing, whatever limits Horovod is given (measured), so each worker watches itself.
horovodrun and torchrun end the other workers when one is gone.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from conf.errors import TRAINING

_LAST_WORDS_S = 5.0  # for on_expiry: it may hang on the disk that hung the training


class Watchdog:
    """A thread that ends the process with exit code 7 when `beat` was not called for `limit_s` seconds.

    It writes the stacks of all threads to stderr first, then calls `on_expiry` (with a sentence for the user) if there is one.
    """

    def __init__(self, limit_s: float, on_expiry: Callable[[str], None] | None = None) -> None:
        self.limit_s, self.on_expiry = limit_s, on_expiry
        self._last = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self.beat()
        self._thread.start()

    def beat(self) -> None:
        """Progress was made."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """End the watch; safe to call twice."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self.limit_s / 4)):
            waited = time.monotonic() - self._last
            if waited > self.limit_s:
                self._expire(waited)

    def _expire(self, waited: float) -> None:
        limit = f"trainer.watchdog_s is {self.limit_s:g}; raise it where a table or a checkpoint takes longer"
        sentence = f"no progress for {waited:.0f} s ({limit}); ending this worker"
        try:
            print(f"{sentence}; exit {TRAINING}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            if self.on_expiry is not None:
                last_words = threading.Thread(target=self.on_expiry, args=(sentence,), daemon=True)
                last_words.start()
                last_words.join(_LAST_WORDS_S)
        finally:
            os._exit(TRAINING)  # not sys.exit: the main thread hangs, and so would its clean-up
