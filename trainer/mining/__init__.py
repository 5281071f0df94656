"""Positives and hard negatives from the model's own vectors: memory bank, nearest neighbours, k-means++ clusters.

Source: MIC (Lu et al. 2022) 3.3.2.
"""

from trainer.mining.miner import Mined, Miner, build_miner

__all__ = ["Mined", "Miner", "build_miner"]
