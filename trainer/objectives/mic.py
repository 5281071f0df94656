"""MIC: contrast between users and items, among users, and among items.

Source: Lu et al. 2022, "MIC: Model-agnostic integrated cross-channel recommenders", eq. 4-6. Read with the positive in the
denominator, sums over j != k, and every comparison between views of the same kind: a negative that alone carries mask
embeddings would give itself away.
"""

import torch
from torch import Tensor, nn

from conf.settings import Settings
from trainer.encoders.encoder import Encoder
from trainer.objectives.objective import Objective
from trainer.objectives.same_side import SameSide
from trainer.objectives.step import Step
from trainer.objectives.user_item import UserItem
from trainer.objectives.views import Views
from trainer.projection import projection


class MicContrast(Objective):
    """Parts "uv", "uu", "vv", without those of weight 0. All by cosine, with settings.objectives.mic.temperature.

    Each is >= 0 unless its denominator leaves the positive out. A part whose weight is learned counts exp(-2 s) L + s with a learned
    s = ln sigma, 0 at the start: its weight is then 1 / sigma^2, and s keeps sigma from growing for ever. Its s is the part
    "<part>_ln_sigma".

    Source of the learned weights: Kendall et al. 2018, "Multi-task learning using uncertainty to weigh losses", eq. 10 for a softmax.
    """

    def __init__(self, settings: Settings, encoder: Encoder) -> None:
        super().__init__()
        mic = settings.objectives.mic
        assert mic is not None
        self.mic = mic
        given = {"uv": mic.uv, "uu": mic.uu, "vv": mic.vv}
        self.weights = {part: mic.weight * (1.0 if weight == "learned" else weight) for part, weight in given.items() if weight != 0}
        self.learned = [part for part, weight in given.items() if weight == "learned"]
        if self.learned:
            self.weights |= {f"{part}_ln_sigma": mic.weight for part in self.learned}
            self.ln_sigma = nn.Parameter(torch.empty(len(self.learned)))
        self.parts = self._parts(encoder)

    def _parts(self, encoder: Encoder) -> dict[str, UserItem | SameSide]:
        parts: dict[str, UserItem | SameSide] = {}
        if "uv" in self.weights:
            kind, dim = self.mic.projection, encoder.dim
            self.project_user, self.project_item = projection(kind, dim), projection(kind, dim)
            parts["uv"] = UserItem(self.mic, self.project_user, self.project_item)
        if "uu" in self.weights:
            self.project_users = projection(self.mic.same_side_projection, encoder.dim)
            parts["uu"] = SameSide(self.mic, "uu", self.project_users)
        if "vv" in self.weights:
            self.project_items = projection(self.mic.same_side_projection, encoder.dim)
            parts["vv"] = SameSide(self.mic, "vv", self.project_items)
        return parts

    @property
    def joint(self) -> dict[str, nn.Module]:
        """Side -> the projection of its vectors into the joint space of uv; {} without uv."""
        return {"user": self.project_user, "item": self.project_item} if "uv" in self.parts else {}

    def reset(self, seed: int, name: str) -> None:
        """Learned weights start at 1."""
        if self.learned:
            self.ln_sigma.zero_()

    def weight_of(self, part: str) -> float | Tensor:
        """Of a part, in the total."""
        if part in self.learned:
            return self.weights[part] * torch.exp(-2 * self.ln_sigma[self.learned.index(part)])
        return self.weights[part]

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The parts that have a weight."""
        views = Views(step, every_row="uv" in self.parts and self.mic.views != "clean", users_masked=self.mic.perturb_sides == "both")
        own = {name: part.own(views) for name, part in self.parts.items()}
        gathered = iter(step.gather([x for tensors in own.values() for x in tensors], exact=self.mic.gather == "exact"))
        everyone = {name: [next(gathered) for _ in tensors] for name, tensors in own.items()}
        losses = {name: part.loss(step, own[name], everyone[name]) for name, part in self.parts.items()}
        return losses | {f"{part}_ln_sigma": self.ln_sigma[number] for number, part in enumerate(self.learned)}
