"""YoutubeDNN as a matching model: a user tower over the mean of the history, compared with items by inner product."""

from collections.abc import Mapping

from conf.fields import Registry
from conf.settings import Settings
from trainer.catalogue import Catalogue
from trainer.encoders.fields import FieldEncoder


class YoutubeDNN(FieldEncoder):
    """user = MLP(user fields, mean of the history's item_id embeddings); item = MLP(item fields), or the id's embedding. ReLU.

    ComiRec's variant (`Model_DNN`, one linear layer) is model.hidden [], model.item_tower id and no user fields.

    Source: Covington et al. 2016, "Deep neural networks for YouTube recommendations"; Cen et al. 2020 (ComiRec) for the variant.
    """

    similarity = "inner_product"

    def __init__(self, settings: Settings, registry: Registry, catalogue: Catalogue, vocab_sizes: Mapping[str, int]) -> None:
        super().__init__(settings, registry, catalogue, vocab_sizes)
        self.user_tower = self.dense(self.width * (len(registry.user) + 1), settings.model.hidden, self.dim)
        self.item_tower = self.dense_items(settings)
