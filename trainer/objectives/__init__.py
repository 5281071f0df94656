"""The losses by name. A new one is a file here and a line in a dict, plus its settings; the suite in tests/contracts then tests it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from conf.settings import Settings
from trainer.deferred import deferred_init, materialize_module
from trainer.encoders.encoder import Encoder
from trainer.objectives.logistic import Logistic
from trainer.objectives.masked_views import MaskedViews
from trainer.objectives.mic import MicContrast
from trainer.objectives.micrec import MicRec
from trainer.objectives.objective import Objective
from trainer.objectives.sampled_softmax import SampledSoftmax
from trainer.objectives.step import Step
from trainer.projection import JOINT

Builder = Callable[[Settings, Encoder], Objective]

BASE_LOSSES: dict[str, Builder] = {"logistic": Logistic, "sampled_softmax": SampledSoftmax}
OBJECTIVES: dict[str, Builder] = {"masked_views": MaskedViews, "mic": MicContrast, "micrec": MicRec}


class Criterion(nn.Module):
    """The base loss and the objectives added to it, as one loss.

    MIC (Lu et al. 2022) eq. 8: base.weight * base + mic.weight * (uv * L_uv + uu * L_uu + vv * L_vv).
    """

    def __init__(self, losses: dict[str, Objective]) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)

    def forward(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """(total with gradient, its parts detached and unweighted, named "<loss>.<part>").

        The mean over ranks of each is the global value.
        """
        total: Tensor | None = None
        parts: dict[str, Tensor] = {}
        for name, loss in self.losses.items():
            assert isinstance(loss, Objective)
            for part, value in loss(step).items():
                weighted = value * loss.weight_of(part)
                total = weighted if total is None else total + weighted
                parts[f"{name}.{part}"] = value.detach()
        assert total is not None
        return total, parts

    def joint_weights(self) -> dict[str, Tensor]:
        """The weights of the projections into MIC's joint space by "joint.<side>.<name>"; {} where there are none."""
        mic = dict(self.losses.items()).get("mic")
        sides = mic.joint if isinstance(mic, MicContrast) else {}
        return {f"{JOINT}{side}.{name}": weight for side, module in sides.items() for name, weight in module.state_dict().items()}

    @torch.no_grad()
    def keep_in_range(self) -> None:
        """See Objective."""
        for loss in self.losses.values():
            assert isinstance(loss, Objective)
            loss.keep_in_range()


def build_objectives(settings: Settings, encoder: Encoder) -> Criterion:
    """The loss that the settings describe, with fresh parameters of its own; raises ValueError for an unknown base loss.

    What has no weight is left out, so that base.weight 1 without objectives trains exactly the encoder's own loss.
    """
    name = settings.base.loss
    if name not in BASE_LOSSES:
        raise ValueError(f"unknown base loss {name!r}; known: {', '.join(sorted(BASE_LOSSES))}")
    builders: dict[str, Builder] = {}
    if settings.base.weight > 0:
        builders[name] = BASE_LOSSES[name]
    builders |= {extra: builder for extra, builder in OBJECTIVES.items() if extra in settings.objectives.trained}
    criterion = deferred_init(lambda: Criterion({name: builder(settings, encoder) for name, builder in builders.items()}))
    materialize_module(criterion, seed=settings.trainer.seed)
    return criterion


__all__ = ["BASE_LOSSES", "OBJECTIVES", "Criterion", "Objective", "Step", "build_objectives"]
