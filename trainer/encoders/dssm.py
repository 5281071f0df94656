"""DSSM: two towers over concatenated field embeddings, compared by cosine; the encoder MIC (Lu et al. 2022) starts from."""

from collections.abc import Mapping

from torch import nn

from conf.fields import Registry
from conf.settings import Settings
from trainer.catalogue import Catalogue
from trainer.encoders.fields import FieldEncoder


class DSSM(FieldEncoder):
    """user = MLP(user fields, mean of the history's item_id embeddings); item = MLP(item fields). tanh hidden layers, linear output.

    Source: Huang et al. 2013, "Learning deep structured semantic models for web search using clickthrough data", with
    embeddings in place of letter trigrams; MIC 4.3 for the dropout.
    """

    similarity = "cosine"
    activation = nn.Tanh

    def __init__(self, settings: Settings, registry: Registry, catalogue: Catalogue, vocab_sizes: Mapping[str, int]) -> None:
        super().__init__(settings, registry, catalogue, vocab_sizes)
        self.user_tower = self.dense(self.width * (len(registry.user) + 1), settings.model.hidden, self.dim)
        self.item_tower = self.dense_items(settings)
