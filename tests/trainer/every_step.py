"""trainer.train with a line of metrics.jsonl for every step. Started by horovodrun in the tests."""

import sys

from trainer import fit
from trainer.train import main

if __name__ == "__main__":
    fit.LOG_STEPS = 1
    sys.exit(main())
