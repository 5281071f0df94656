"""One optimiser for the dense weights and one for the embedding tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from conf.settings import Settings
from trainer.backends import Shard, is_sparse_table
from trainer.encoders.encoder import Encoder

ROWWISE_LR = 0.05
ROUTED_CLIP = 5.0  # of comirec_dr; decision


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator a row: row -= lr * g / (sqrt(sum of mean(g^2)) + eps). Touches only rows with a gradient.

    State: V floats a table instead of Adam's 2 V D, and a step costs what the rows in use cost, not what the table costs.

    Source: Duchi et al. 2011; one accumulator a row as in Mudigere et al. 2022, "Software-hardware co-design for fast and
    scalable training of deep learning recommendation models".
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, eps: float = 1e-8) -> None:
        super().__init__(parameters, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; sparse and dense gradients give the same result. closure: not supported."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["eps"])

    def _update(self, parameter: Tensor, lr: float, eps: float) -> None:
        state = self.state[parameter]
        if "sum" not in state:
            state["sum"] = torch.zeros(len(parameter), dtype=parameter.dtype, device=parameter.device)
        assert parameter.grad is not None
        if parameter.grad.is_sparse:
            gradient = parameter.grad.coalesce()
            rows, values = gradient.indices()[0], gradient.values()
        else:
            rows = (parameter.grad != 0).any(dim=1).nonzero()[:, 0]
            values = parameter.grad[rows]
        sums = state["sum"][rows] + values.square().mean(dim=1)
        state["sum"][rows] = sums
        parameter.index_add_(0, rows, values / (sums.sqrt() + eps)[:, None], alpha=-lr)


class Optimizers:
    """Adam for the dense weights and for tables with whole gradients; row-wise Adagrad or SparseAdam for those with gradients by rows.

    SparseAdam: Adam on the rows in use, whose moments stand still where a row is not.
    """

    def __init__(self, settings: Settings, encoder: Encoder, criterion: nn.Module) -> None:
        given = settings.trainer.optimizer
        routed = settings.model.encoder == "comirec_dr"
        self._most = (ROUTED_CLIP if routed else None) if given.clip == "auto" else given.clip
        tables = encoder.tables()
        ids = {id(table) for table in tables}
        dense = [p for module in (encoder, criterion) for p in module.parameters() if id(p) not in ids]
        self.parameters: list[nn.Parameter] = dense + tables
        """Everything that is trained, in the fixed order for Backend.sync_gradients."""
        by_rows = [table for table in tables if is_sparse_table(table)]
        whole = [table for table in tables if not is_sparse_table(table)]
        # FM with sampled softmax has tables only
        groups: list[dict[str, Any]] = [
            {"params": parameters, "lr": lr} for parameters, lr in ((dense, given.lr), (whole, given.tables_lr or given.lr)) if parameters
        ]
        self.parts: dict[str, torch.optim.Optimizer] = {"adam": torch.optim.Adam(groups, fused=True)} if groups else {}
        if by_rows and given.tables == "sparse_adam":
            self.parts["sparse_adam"] = torch.optim.SparseAdam(by_rows, lr=given.tables_lr or given.lr)
        elif by_rows:
            self.parts["rowwise_adagrad"] = RowwiseAdagrad(by_rows, lr=given.tables_lr or ROWWISE_LR)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None
            if isinstance(parameter, Shard):
                parameter.pending.clear()

    def clip(self, norm: float) -> None:
        """Scale the gradients of `parameters` down to the norm that trainer.optimizer.clip allows; norm: of all of them, on all ranks."""
        if self._most is None or norm <= self._most:
            return
        for parameter in self.parameters:
            if parameter.grad is not None:
                (parameter.grad._values() if parameter.grad.is_sparse else parameter.grad).mul_(self._most / norm)

    def step(self) -> None:
        """Apply the gradients of `parameters`."""
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and containers only: torch.load takes it back with weights_only=True. Without `rows`."""
        states = {name: part.state_dict() for name, part in self.parts.items()}
        for name, number, key in self._row_keys():
            states[name]["state"][number] = {k: v for k, v in states[name]["state"][number].items() if k != key}
        return states

    def rows(self) -> dict[str, Tensor]:
        """What is kept for this worker's rows of divided tables: "<optimiser>.<number of the parameter>.<name>" -> [rows, ...]."""
        return {f"{name}.{number}.{key}": self.parts[name].state_dict()["state"][number][key] for name, number, key in self._row_keys()}

    def load_state_dict(self, state: dict[str, Any], rows: Mapping[str, Tensor] | None = None) -> None:
        """Continue from `state_dict()` of the same settings, and `rows()`."""
        for path, values in (rows or {}).items():
            name, number, key = path.split(".")
            state[name]["state"].setdefault(int(number), {})[key] = values.clone()
        for name, part in self.parts.items():
            part.load_state_dict(state[name])

    def _row_keys(self) -> list[tuple[str, int, str]]:
        """(optimiser, number of the parameter, name) of all state that has a row for each of a shard's."""
        found = []
        for name, part in self.parts.items():
            parameters = [parameter for group in part.param_groups for parameter in group["params"]]
            for number, parameter in enumerate(parameters):
                state = part.state[parameter] if isinstance(parameter, Shard) and parameter in part.state else {}
                found += [(name, number, key) for key, value in state.items() if isinstance(value, Tensor) and value.dim()]
        return found
