"""What a report's run wrote, and its page as elements with their texts."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from conf.command import Request
from conf.manifest import Manifest

VOID = ("meta", "br", "line", "path", "rect", "circle", "polyline", "img", "link", "input", "hr")


class Page(HTMLParser):
    """Every element that carries data-* attributes, with its text; and every tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, str], str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[tuple[dict[str, str], int]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(({k.removeprefix("data-"): v or "" for k, v in attrs if k.startswith("data-")}, len(self.text)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            data, start = self._open.pop()
            if data:
                self.found.append((data, self.text[start:].strip()))

    def handle_data(self, data: str) -> None:
        self.text += data

    def having(self, *names: str) -> list[tuple[dict[str, str], str]]:
        return [(data, text) for data, text in self.found if all(name in data for name in names)]


def texts_of(page: Page, name: str) -> dict[str, str]:
    """The text of each element with data-NAME, by its value."""
    return {data[name]: text for data, text in page.having(name)}


def files_of(asked: Request) -> tuple[str, dict[str, Any]]:
    folder = Path(asked.store.folder_of(asked.store.manifest("report", asked.ds, asked.settings)))
    return (folder / "report.html").read_text(), json.loads((folder / "report.json").read_text())


def manifest_of(asked: Request, name: str) -> Manifest:
    return asked.store.manifest(name, asked.ds, asked.settings)


def table(spark: SparkSession, asked: Request, name: str) -> DataFrame:
    return spark.read.parquet(*asked.store.files_of(manifest_of(asked, name)))
