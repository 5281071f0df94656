"""The interface of an encoder: users and items in, vectors out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

Batch = dict[str, Tensor]
"""One rank's rows of one global batch:

row int64[B]: number of the row in the global batch, keys the draws; sample_id, user_idx, item_idx int64[B]; hist int64[B, L]: item_idx,
oldest first, 0 PAD at the end; hist_len int64[B]; weight float32[B]; um_b, uh_b, vm_b int64[B]: masks of view b;
um_a, uh_a, vm_a int64[B]: of view a, where it is not clean; draw int64[B]: number of the mask draw;
hist_weight float32[B, L]: weight of each click of the history that the row trains on beside its target, 0 of the others; only where rows
stand for several clicks (settings.trainer.clicks_per_row);
user.<field> int64[B] (single) or int64[B, M] (multi; 0, at any place, is no value).
"""


class Encoder(nn.Module, ABC):
    """similarity: what the base loss and retrieval compare by. dim: D. interests: K vectors a user. features_dim: E.

    Dropout happens only in train mode and only where the caller gives noise: int64[n], a random word a row (see trainer.randomness).
    """

    similarity: Literal["cosine", "inner_product"]
    dim: int
    interests: int
    features_dim: int

    @abstractmethod
    def user(self, batch: Batch, *, um: Tensor | None = None, uh: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """float[B, K, D], not normalised. Reads hist, hist_len and user.* of the batch.

        um: int64[B], bit f = user field f is masked. uh: int64[B], bit p = history position p is dropped; the most recent click stays.
        """

    @abstractmethod
    def item(
        self,
        idx: Tensor,
        *,
        vm: Tensor | None = None,
        multi: Mapping[str, Tensor] | None = None,
        noise: Tensor | None = None,
        drop: float | None = None,
    ) -> Tensor:
        """float[n, D], not normalised, of item_idx int64[n].

        vm: int64[n], bit f = item field f is masked. multi: int64[n, M] of each multi-valued item field, 0 = no value; taken in place of
        the catalogue's by a view that drops values, and only given where there are such fields. drop: share of the elements of the fields'
        embeddings that is dropped, in place of model.dropout; an item that is its id's embedding as it is loses elements so, too.
        """

    @abstractmethod
    def features(self, idx: Tensor, *, vm: Tensor | None = None, multi: Mapping[str, Tensor] | None = None) -> Tensor:
        """float[n, E]: the embeddings of the items' fields side by side, before any layer; vm, multi as of `item`."""

    def prefixes(self, batch: Batch, *, noise: Tensor | None = None) -> Tensor:
        """float[B, L + 1, D]: vector n is the user's after the first n clicks of the history, so vector hist_len that of `user`.

        Only of encoders with a loss at every position, for which one pass gives them all.
        """
        raise NotImplementedError(f"{type(self).__name__} has no vector for every position")

    @abstractmethod
    def tables(self) -> list[nn.Parameter]:
        """The embedding tables: what settings.trainer.optimizer.tables applies to."""
