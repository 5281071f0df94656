"""The memory bank as a queue: the last vectors that training itself made, searched anew at every step.

Source: Dwibedi et al. 2021, "With a little help from my friends: nearest-neighbor contrastive learning of visual representations".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from trainer.mining.side import Drawn, Key, chosen_by_luck

_ANCHORS = 128  # compared with the whole queue at a time


@dataclass
class Recent:
    """A ring of Q places. idx: int64[Q], 0 = empty. vectors: float16[Q, K, D], as the loss compares them; [Q, 0, 0] before the first.

    at: the place that is written next. Every worker holds the same one.
    """

    idx: Tensor
    vectors: Tensor
    at: int = 0

    @classmethod
    def empty(cls, size: int) -> Self:
        """Without any vector yet."""
        return cls(torch.zeros(size, dtype=torch.int64), torch.zeros(size, 0, 0, dtype=torch.float16))

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Self:
        """From `state`."""
        return cls(state["idx"], state["vectors"], int(state["at"]))

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"idx": self.idx, "vectors": self.vectors, "at": torch.tensor(self.at)}

    def hold(self, shape: torch.Size) -> None:
        """Make room for vectors [K, D], if there is none yet."""
        if not self.vectors.numel():
            self.vectors = torch.zeros(len(self.idx), *shape, dtype=torch.float16)

    def remember(self, idx_n: Tensor, vectors_nKD: Tensor) -> None:
        """Put the vectors of n entities in the place of the oldest ones; of more than Q, the last Q."""
        size = len(self.idx)
        self.hold(vectors_nKD.shape[1:])
        idx_n, vectors_nKD = idx_n[-size:].cpu(), vectors_nKD[-size:].detach().to("cpu", torch.float16)
        places = (self.at + torch.arange(len(idx_n))) % size
        self.idx[places], self.vectors[places] = idx_n, vectors_nKD
        self.at = (self.at + len(idx_n)) % size

    def positives(
        self,
        idx_B: Tensor,
        row_B: Tensor,
        num: int,
        *,
        neighbours: int,
        min_similarity: float,
        compare: Callable[[slice, Tensor], Tensor],
        key: Key,
    ) -> Drawn:
        """`num` different entities of each among the `neighbours` nearest places of others, similar enough.

        compare: (which anchors, the queue float16[Q, K, D]) -> float[b, Q], their similarities.
        """
        near, similar = [], []
        for start in range(0, len(idx_B), _ANCHORS):
            part = slice(start, start + _ANCHORS)
            score_bQ = compare(part, self.vectors).detach().to("cpu", torch.float32)
            score_bQ = score_bQ.masked_fill((self.idx == 0) | (self.idx == idx_B[part, None]), -torch.inf)
            best = score_bQ.topk(min(neighbours, len(self.idx)), dim=1)
            near.append(best.indices)
            similar.append(best.values)
        empty = torch.zeros(0, min(neighbours, len(self.idx)))
        near_Bk, similar_Bk = torch.cat(near) if near else empty.long(), torch.cat(similar) if similar else empty
        chosen_Bn, valid_Bn = chosen_by_luck(self.idx[near_Bk], similar_Bk >= min_similarity, row_B, num, key)
        place_Bn = near_Bk.gather(1, chosen_Bn)
        return Drawn(self.idx[place_Bn].masked_fill(~valid_Bn, 0), place_Bn, valid_Bn, similar_Bk.gather(1, chosen_Bn))

    def vectors_of(self, entity: Tensor) -> Tensor:
        """float32[..., K, D] of places in the queue."""
        return self.vectors[entity].float()
