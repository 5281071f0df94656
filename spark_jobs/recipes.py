"""What a model is trained by, for settings that `trichannel init` writes. A new recipe is a function and a line in RECIPES."""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final

from conf.settings import load
from spark_jobs.findings import Finding
from spark_jobs.last_clicks import AT

FEW_CLICKS: Final = 10.0  # an item: below it a model learns users by heart before it learns tastes
AUTO: Final = "auto"
TRAINED: Final = ("samples", "model", "base", "objectives", "trainer", "merge")  # sections that make up a recipe


def sequential(finding: Finding) -> dict[str, Any]:
    """The packaged sequential.yaml: a tower over the sequence of item ids, with a loss at every click; more dropout where items have few
    clicks.

    There a table of items is taken as far as they have clicks: the others, mostly more, would share the vector of unknown ids.
    """
    settings = {name: values for name, values in load("sequential").model_dump(exclude_unset=True).items() if name in TRAINED}
    if few(finding):
        settings["model"]["dropout"] = 0.5
        if "items" in finding.settings["source"]:
            settings["source"] = finding.settings["source"] | {"catalogue": "clicked"}
    return settings


def contrastive(finding: Finding) -> dict[str, Any]:
    """MIC beside a sampled softmax over all fields, as in the packaged movielens.yaml; gentler where items have few clicks.

    There contrast between users (uu), which tells them apart by what is theirs alone, ends with recall below that of the most popular
    items within three epochs (measured on 75,000 grocery purchases of 21,000 products); so it is off, and dropout is high.
    """
    settings: dict[str, Any] = {
        "base": {"loss": "sampled_softmax", "negatives": "mixed", "num_negatives": 512, "temperature": 0.1},
        "objectives": {"mic": {"weight": 0.3}},
        "model": {"history": 50},
        "trainer": {"batch": 1024, "epochs": 20, "patience": 3, "optimizer": {"lr": 0.002}},
        "merge": sequential(finding)["merge"],
    }
    if few(finding):
        settings["objectives"]["mic"]["uu"] = 0
        settings["model"]["dropout"] = 0.7
        settings["trainer"]["optimizer"]["lr"] = 0.001
    return settings


RECIPES: Final[Mapping[str, Callable[[Finding], dict[str, Any]]]] = {"sequential": sequential, "contrastive": contrastive}


def few(finding: Finding) -> bool:
    """Whether items have few clicks."""
    return finding.clicks_an_item < FEW_CLICKS


def chosen(recipe: str, finding: Finding) -> str:
    """The recipe's name. auto is `sequential`; but `contrastive` where items have few clicks, unless what is clicked together tells more
    of users' last clicks than what most people click: there ids alone say too little."""
    told = finding.last_clicks
    related = told is not None and told.together > told.popular
    return recipe if recipe != AUTO else "contrastive" if few(finding) and not related else "sequential"


def notes(recipe: str, finding: Finding) -> list[str]:
    """What the recipe does and why, for the head of the file."""
    reasons = []
    if isfinite(finding.clicks_an_item):
        reasons.append(f"{finding.clicks_an_item:.1f} clicks an item{' are few' if few(finding) else ''}")
    if (told := finding.last_clicks) and told.users:
        found = f"{told.together:.1%} are found by what was clicked together, {told.popular:.1%} by popularity"
        reasons.append(f"of {told.users:,} last clicks, in {AT} items, {found}")
    why = f" ({'; '.join(reasons)})" if reasons else ""
    name = chosen(recipe, finding)
    if name == "sequential":
        said = f"Recipe sequential{why}: items by their ids in the order of clicks, no fields of users or items"
        gentle = "; more dropout" if few(finding) else ""
        gentle += ", no items without clicks (source.catalogue)" if few(finding) and "items" in finding.settings["source"] else ""
        return [f"{said}{gentle}; for the fields and for MIC: --recipe contrastive"]
    gentle = "; no contrast between users (objectives.mic.uu), more dropout, a lower lr" if few(finding) else ""
    return [f"Recipe contrastive{why}: all fields, MIC beside a sampled softmax{gentle}"]
