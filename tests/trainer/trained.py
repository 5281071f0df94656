"""What a training published, and how it is started."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from conf.settings import Settings
from conf.storage import MAIN, Manifest, Store
from tests.trainer.planted import DS


def model(settings: Settings, variant: str = MAIN) -> Manifest:
    return Store.of(settings, variant).manifest("model", DS, settings)


def metrics(settings: Settings, kind: str | None = None, *, variant: str = MAIN) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    store = Store.of(settings, variant)
    file = next(f for f in store.files_of(model(settings, variant)) if f.endswith("metrics.jsonl"))
    lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "samples_per_s"} for line in lines if kind in (None, line["kind"])]


def with_trainer(settings: Settings, **values: object) -> Settings:
    data = settings.model_dump(mode="json")
    data["trainer"] |= values
    return Settings.model_validate(data)


def command(settings: Settings, folder: Path, *options: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return [sys.executable, "-m", "trainer.train", "--config", str(config), "--ds", DS, *options]
