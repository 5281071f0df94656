"""SASRec: causal self-attention over the clicks of a history, with a user vector after each of them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conf.fields import EMPTY, PAD, Registry
from conf.settings import Settings
from trainer.catalogue import Catalogue
from trainer.encoders.encoder import Batch
from trainer.encoders.fields import FieldEncoder
from trainer.encoders.layers import Dense, Linear, Norm, kept_clicks
from trainer.randomness import fill_uniform_, words64

_ROWS = 1024  # users encoded at a time where no gradient is wanted: each has a vector a position, and hidden ones four times as wide
_PIECES, _PIECE_ROWS = 8, 16  # pieces that rows of a step go in, at most: each is a round of small kernels; rows of a piece, at least


class Positions(nn.Module):
    """A learned vector for each number of clicks before: uniform in (-init, init), as the embeddings they are added to."""

    def __init__(self, num: int, width: int, *, init: float) -> None:
        super().__init__()
        self.init = init
        self.weight = nn.Parameter(torch.empty(num, width))

    def reset(self, seed: int, name: str) -> None:
        """Fill the rows."""
        fill_uniform_(self.weight, self.init, seed, f"{name}.weight")


class Block(nn.Module):
    """The parts of a pre-norm transformer block: attention, and two dense layers (ReLU), each on the norm of what it is added to.

    Source: Vaswani et al. 2017, "Attention is all you need", 3.1-3.3; the norm before each part as in Xiong et al. 2020.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_dense = Norm(width), Norm(width)
        self.query, self.key, self.value = (Linear(width, width) for _ in range(3))
        self.out = Dense(width, width)
        self.dense = nn.Sequential(Dense(width, 4 * width), nn.ReLU(), Dense(4 * width, width))

    def attention(self, x_BPW: Tensor, seen_BPP: Tensor) -> Tensor:
        """float[B, P, W]: what each position reads out of those it sees; one at least."""
        x_BPW = self.norm_attention(x_BPW)
        query, key, value = (part(x_BPW).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        mixed_BHPV = F.scaled_dot_product_attention(query, key, value, attn_mask=seen_BPP[:, None])
        out: Tensor = self.out(mixed_BHPV.transpose(1, 2).flatten(2))
        return out

    def layers(self, x_BPW: Tensor) -> Tensor:
        """float[B, P, W]: each position on its own."""
        out: Tensor = self.dense(self.norm_dense(x_BPW))
        return out


class SASRec(FieldEncoder):
    """user = the last output of transformer blocks over (EMPTY, clicks), each click its item_id embedding and its position; item =
    MLP(item fields), or the id's embedding. Positions are counted from the oldest click of the history; every output sees only what
    comes before it, so one pass gives the user after each click (`prefixes`), as `user` would give it for that shorter history.

    Where there are user fields (or embeddings are not as wide as vectors), each output goes with them through an MLP, ReLU.

    Source: Kang and McAuley 2018, "Self-attentive sequential recommendation", with pre-norm blocks, dense layers of 4 times the width,
    and, by default, cosine in place of the inner product.
    """

    def __init__(self, settings: Settings, registry: Registry, catalogue: Catalogue, vocab_sizes: Mapping[str, int]) -> None:
        super().__init__(settings, registry, catalogue, vocab_sizes)
        given, self.length = settings.model.sasrec, settings.model.history
        self.similarity = given.similarity
        self.places = Positions(1 + self.length, self.width, init=settings.model.embedding.init)
        self.blocks = nn.ModuleList(Block(self.width, given.heads) for _ in range(given.blocks))
        self.norm = Norm(self.width)
        self.user_tower = nn.Identity()
        if registry.user or self.width != self.dim:
            self.user_tower = self.dense(self.width * (1 + len(registry.user)), settings.model.hidden, self.dim)
        self.item_tower = self.dense_items(settings)

    def user(self, batch: Batch, *, um: Tensor | None = None, uh: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """float[B, 1, D]."""
        if torch.is_grad_enabled() or (num := len(batch["hist_len"])) <= _ROWS:
            return self._last(batch, um, uh, noise)
        parts = []
        for rows in (slice(start, start + _ROWS) for start in range(0, num, _ROWS)):
            part = {name: column[rows] for name, column in batch.items()}
            parts.append(self._last(part, *(None if given is None else given[rows] for given in (um, uh, noise))))
        return torch.cat(parts)

    def _last(self, batch: Batch, um: Tensor | None, uh: Tensor | None, noise: Tensor | None) -> Tensor:
        """float[B, 1, D]: the output behind the last click."""
        vectors_BPD = self._outputs(batch, um, uh, noise)
        return vectors_BPD.gather(1, batch["hist_len"][:, None, None].expand(-1, 1, vectors_BPD.shape[2]))

    def prefixes(self, batch: Batch, *, noise: Tensor | None = None) -> Tensor:
        """float[B, L + 1, D]: vector n is the user's after n clicks of the history; see Encoder."""
        return self._outputs(batch, None, None, noise)

    def _outputs(self, batch: Batch, um: Tensor | None, uh: Tensor | None, noise: Tensor | None) -> Tensor:
        """float[B, P, D], P = 1 + the longest history there is room for; what stands behind a row's own history means nothing."""
        hist_BL, length_B = batch["hist"][:, : self.length], batch["hist_len"]
        item_ids_BL, dropped_B = self.shown_ids(hist_BL, length_B, uh)
        known_BL = kept_clicks(length_B, hist_BL.shape[1], dropped_B)
        ids_BL = item_ids_BL.masked_fill(~known_BL, PAD)
        known_BP, ids_BP = F.pad(known_BL, (1, 0), value=True), F.pad(ids_BL, (1, 0), value=EMPTY)
        clicks_BPW = self.table("item_id")(ids_BP)  # of all rows at once: collective where tables are divided over the workers
        if self.training and len(length_B):
            x_BPW = self._by_length(clicks_BPW, known_BP, length_B, noise)
        else:
            x_BPW = self._through_blocks(clicks_BPW, known_BP, noise)
        if isinstance(self.user_tower, nn.Identity):
            out: Tensor = x_BPW
            return out
        fields = [field_BW[:, None].expand_as(x_BPW) for field_BW in self.embedded(self.user_ids(batch, um))]
        vectors_BPD: Tensor = self.user_tower(self._dropped(torch.cat([x_BPW, *fields], dim=2), noise, 1 + 2 * len(self.blocks)))
        return vectors_BPD

    def _by_length(self, clicks_BPW: Tensor, known_BP: Tensor, length_B: Tensor, noise: Tensor | None) -> Tensor:
        """As `_through_blocks`, rows of like length together: most are far shorter than the longest, and padding costs what clicks cost.

        Zero behind the longest history of a piece. Only for training: how long the pieces are must not enter an exported graph.
        """
        order_B = length_B.argsort(stable=True)
        parts = []
        for rows in torch.split(order_B, max(_PIECE_ROWS, -(-len(order_B) // _PIECES))):
            num = 1 + int(length_B[rows[-1]])
            own = None if noise is None else noise[rows]
            part_BPW = self._through_blocks(clicks_BPW[rows, :num], known_BP[rows, :num], own)
            parts.append(F.pad(part_BPW, (0, 0, 0, clicks_BPW.shape[1] - num)))
        return torch.cat(parts)[order_B.argsort()]

    def _through_blocks(self, clicks_BPW: Tensor, known_BP: Tensor, noise: Tensor | None) -> Tensor:
        """float[B, P, W] of the embedded clicks: the last block's output after the norm."""
        num = known_BP.shape[1]
        earlier_PP = torch.ones(num, num, dtype=torch.bool, device=known_BP.device).tril()
        seen_BPP = earlier_PP & known_BP[:, None, :]
        x_BPW = self._dropped(clicks_BPW + self.places.weight[:num], noise, 0)
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            x_BPW = x_BPW + self._dropped(block.attention(x_BPW, seen_BPP), noise, 1 + 2 * number)
            x_BPW = x_BPW + self._dropped(block.layers(x_BPW), noise, 2 + 2 * number)
        out: Tensor = self.norm(x_BPW)
        return out

    def _dropped(self, x_BPW: Tensor, noise: Tensor | None, place: int) -> Tensor:
        """x after dropout, in train mode; each place where something drops has numbers of its own."""
        x_BE = self.dropped(x_BPW.flatten(1), None if noise is None else words64(place, noise))
        return x_BE.view(x_BPW.shape)
