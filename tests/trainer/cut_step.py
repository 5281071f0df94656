"""trainer.train that ends without a word before the step whose number $CUT_BEFORE names. Started by launchers in the tests."""

import os
import sys
from typing import Any

from trainer.loop import Loop
from trainer.train import main

_step = Loop.step


def _cut(self: Loop, batch: Any, number: int, **watch: Any) -> dict[str, float]:
    if number == int(os.environ["CUT_BEFORE"]):
        os._exit(9)
    return _step(self, batch, number, **watch)


if __name__ == "__main__":
    Loop.step = _cut  # type: ignore[method-assign]
    sys.exit(main())
