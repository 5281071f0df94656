"""YoutubeDNN as a matching model: a user tower over the mean of the history, compared with items by inner product."""

from collections.abc import Mapping

import torch
from torch import Tensor

from conf.fields import Registry
from conf.settings import Settings
from trainer.catalogue import Catalogue
from trainer.encoders.encoder import Batch
from trainer.encoders.fields import FieldEncoder


class YoutubeDNN(FieldEncoder):
    """user = MLP(mean of the history's item_id embeddings, user fields); item = MLP(item fields), or the id's embedding. ReLU.

    ComiRec's variant (`Model_DNN`, one linear layer) is model.hidden [], model.item_tower id and no user fields.

    Source: Covington et al. 2016, "Deep neural networks for YouTube recommendations"; Cen et al. 2020 (ComiRec) for the variant.
    """

    similarity = "inner_product"

    def __init__(self, settings: Settings, registry: Registry, catalogue: Catalogue, vocab_sizes: Mapping[str, int]) -> None:
        super().__init__(settings, registry, catalogue, vocab_sizes)
        self.user_tower = self.dense(self.width * (1 + len(registry.user)), settings.model.hidden, self.dim)
        self.item_tower = self.dense_items(settings)

    def user(self, batch: Batch, *, um: Tensor | None = None, uh: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """float[B, 1, D]."""
        history_BW = self.table("item_id").mean(self.clicked_ids(batch, uh))
        input_BE = torch.cat([history_BW, *self.embedded(self.user_ids(batch, um))], dim=1)
        vectors_BD: Tensor = self.user_tower(self.dropped(input_BE, noise))
        return vectors_BD[:, None, :]
