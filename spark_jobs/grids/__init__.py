"""The grids by name. A new one is a file here and a line in GRIDS."""

from collections.abc import Mapping
from pathlib import Path

from conf.settings import Settings
from spark_jobs.grids import mic, micrec, parts
from spark_jobs.grids.layout import Cell, Column, Grid

GRIDS: Mapping[str, Grid] = {
    "mic_table2": mic.TABLE_2,
    "mic_table3": mic.TABLE_3,
    "micrec_table2": micrec.TABLE_2,
    "micrec_table4": micrec.TABLE_4,
    "micrec_fig3": micrec.FIGURE_3,
    "parts": parts.PARTS,
}


def published_data(settings: Settings) -> str | None:
    """The paper's name of the data set that is configured; None where no paper has measured it."""
    source = settings.source
    if source.kind == "amazon_reviews" and source.path and "books" in Path(source.path).name.lower():
        return "Amazon Books"
    return "Taobao" if source.kind == "taobao" else None


__all__ = ["GRIDS", "Cell", "Column", "Grid", "published_data"]
