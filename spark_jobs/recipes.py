"""What a model is trained by, for settings that `trichannel init` writes. A new recipe is a function and a line in RECIPES."""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final

from conf.settings import load

FEW_CLICKS: Final = 10.0  # an item: below it a model learns users by heart before it learns tastes
AUTO: Final = "auto"
TRAINED: Final = ("samples", "model", "base", "objectives", "trainer", "merge")  # sections that make up a recipe


def sequential(clicks_an_item: float) -> dict[str, Any]:
    """The packaged sequential.yaml: a tower over the sequence of item ids, with a loss at every click."""
    return {name: values for name, values in load("sequential").model_dump(exclude_unset=True).items() if name in TRAINED}


def contrastive(clicks_an_item: float) -> dict[str, Any]:
    """MIC beside a sampled softmax over all fields, as in the packaged movielens.yaml; gentler where items have few clicks.

    There contrast between users (uu), which tells them apart by what is theirs alone, ends with recall below that of the most popular
    items within three epochs (measured on 75,000 grocery purchases of 21,000 products); so it is off, and dropout is high.
    """
    settings: dict[str, Any] = {
        "base": {"loss": "sampled_softmax", "negatives": "mixed", "num_negatives": 512, "temperature": 0.1},
        "objectives": {"mic": {"weight": 0.3}},
        "model": {"history": 50},
        "trainer": {"batch": 1024, "epochs": 20, "patience": 3, "optimizer": {"lr": 0.002}},
        "merge": sequential(clicks_an_item)["merge"],
    }
    if clicks_an_item < FEW_CLICKS:
        settings["objectives"]["mic"]["uu"] = 0
        settings["model"]["dropout"] = 0.7
        settings["trainer"]["optimizer"]["lr"] = 0.001
    return settings


RECIPES: Final[Mapping[str, Callable[[float], dict[str, Any]]]] = {"sequential": sequential, "contrastive": contrastive}


def chosen(recipe: str, clicks_an_item: float) -> str:
    """The recipe's name; auto is `sequential`, but `contrastive` for items of few clicks, whose ids alone say too little."""
    return recipe if recipe != AUTO else "contrastive" if clicks_an_item < FEW_CLICKS else "sequential"


def notes(recipe: str, clicks_an_item: float) -> list[str]:
    """What the recipe does and why, for the head of the file."""
    few = clicks_an_item < FEW_CLICKS
    why = f" ({clicks_an_item:.1f} clicks an item{' are few' if few else ''})" if isfinite(clicks_an_item) else ""
    if chosen(recipe, clicks_an_item) == "sequential":
        said = f"Recipe sequential{why}: items by their ids in the order of clicks, no fields of users or items"
        return [f"{said}; for the fields and for MIC: --recipe contrastive"]
    gentle = "; no contrast between users (objectives.mic.uu), more dropout, a lower lr" if few else ""
    return [f"Recipe contrastive{why}: all fields, MIC beside a sampled softmax{gentle}"]
