"""What unknown files hold: their format, tables and columns, judged from the first rows. No Spark; used by `trichannel init`."""

import csv
import gzip
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from conf.errors import BadDataError, Fault, NotReadyError
from spark_jobs.sources.file_rows import split_header

Format = Literal["csv", "json", "parquet"]
SAMPLE_ROWS = 50_000
SEPARATORS = (",", "\t", ";", "|")
MOVIELENS_LOGS = ("u.data", "ratings.dat", "interactions_ordered.csv.gz")
DAMAGE = (OSError, EOFError, zlib.error, UnicodeDecodeError, pa.ArrowException)


@dataclass(frozen=True)
class Table:
    """One file, or a folder of files with the same columns. files: what is read, in order. columns: names as the file has them."""

    path: Path
    files: tuple[Path, ...]
    format: Format
    separator: str
    columns: tuple[str, ...]
    sample: dict[str, list[Any]]  # column -> the first values; None = missing

    @property
    def num_sampled(self) -> int:
        """Rows in the sample."""
        return len(self.sample[self.columns[0]])

    def values(self, wanted: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The wanted columns of every row of every file, not only of the sample."""
        for file in self.files:
            yield from _rows(file, self.format, self.separator, wanted)


def tables_at(path: Path) -> list[Table]:
    """The tables at a path: of a file, itself and its siblings; of a folder, the files in it (one table where all columns agree).

    Raises:
        NotReadyError: nothing there. BadDataError: the file given is empty, damaged, or no table; or no file of the folder is one.
    """
    if not path.exists():
        raise NotReadyError(f"--from {path}", [Fault("no such file or folder", fix="check the path")])
    if path.is_file():
        siblings = [other for other in visible(path.parent) if other.is_file() and other != path]
        return [open_table(path), *_openable(siblings)]
    inside = visible(path)
    tables = _openable([file for file in inside if file.is_file()])
    if len(tables) > 1 and len({(table.format, table.separator, table.columns) for table in tables}) == 1:
        first = tables[0]
        files = tuple(table.path for table in tables)
        return [Table(path, files, first.format, first.separator, first.columns, first.sample)]
    for folder in (other for other in inside if other.is_dir()):
        parts = tables_at(folder) if visible(folder) and all(file.is_file() for file in visible(folder)) else []
        tables += [part for part in parts if len(parts) == 1]
    if not tables:
        names = ", ".join(file.name for file in inside[:10]) or "nothing"
        raise BadDataError(f"--from {path}", [Fault("no table there", f"found: {names}", "want csv with a header, JSON lines, or Parquet")])
    return tables


def visible(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without hidden files and those that Spark skips."""
    return sorted(file for file in folder.iterdir() if not file.name.startswith((".", "_")))


def _openable(files: Sequence[Path]) -> list[Table]:
    """Those of the files that are tables; a folder may well hold a README, so the others are left out without a word."""
    tables = []
    for file in files:
        try:
            tables.append(open_table(file))
        except BadDataError:
            continue
    return tables


def open_table(file: Path) -> Table:
    """The table in one file; raises BadDataError if it is empty, damaged, or no table."""
    where = f"--from {file}"
    try:
        kind = format_of(file)
        separator, columns = (",", ()) if kind != "csv" else _csv_layout(file)
        if kind == "csv" and not columns:
            raise BadDataError(where, [Fault("no csv header", fix="the first line must name the columns, divided by , ; | or tabs")])
        if kind == "parquet":
            columns = tuple(pq.read_schema(file).names)
        if kind == "json":
            seen = [key for row in itertools.islice(_objects(file), SAMPLE_ROWS) for key in row]
            columns = tuple(dict.fromkeys(seen))
        rows = list(itertools.islice(_rows(file, kind, separator, columns), SAMPLE_ROWS)) if columns else []
    except (*DAMAGE, csv.Error, ValueError) as error:
        raise BadDataError(where, [Fault("cannot be read", f"{type(error).__name__}: {error}"[:200], "damaged?")]) from None
    if not rows:
        raise BadDataError(where, [Fault("has no rows", fix="want csv with a header, JSON lines, or Parquet")])
    sample = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
    return Table(file, (file,), kind, separator, columns, sample)


def format_of(file: Path) -> Format:
    """By content, not by name: Parquet's magic bytes, a first line that is a JSON object, else csv."""
    with file.open("rb") as stream:
        if stream.read(4) == b"PAR1":
            return "parquet"
    first = next((line for line in lines(file) if line.strip()), "")
    try:
        return "json" if isinstance(json.loads(first), dict) else "csv"
    except ValueError:
        return "csv"


def lines(file: Path) -> Iterator[str]:
    """The lines of a text file, unpacked where its name ends in .gz, without line ends; bytes that are no UTF-8 become U+FFFD."""
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8-sig", errors="replace", newline="\n") as stream:
        for line in stream:
            yield line.rstrip("\r\n")


def _csv_layout(file: Path) -> tuple[str, tuple[str, ...]]:
    """The separator that cuts most of the first lines into as many values as the header, and the header; ("", ()) if there is none."""
    head = [line for line in itertools.islice(lines(file), 50) if line.strip()]
    best: tuple[int, str, tuple[str, ...]] = (1, "", ())
    for separator in SEPARATORS if len(head) > 1 else ():
        names = tuple(split_header(head[0], separator))
        widths = Counter(len(row) for row in csv.reader(head[1:], delimiter=separator))
        named = all(names) and len(set(names)) == len(names) and not any(is_number(name) for name in names)
        if named and widths[len(names)] >= 0.8 * sum(widths.values()) and len(names) > best[0]:
            best = (len(names), separator, names)
    return best[1], best[2]


def _objects(file: Path) -> Iterator[dict[str, Any]]:
    for line in lines(file):
        try:
            row = json.loads(line)
        except ValueError:
            continue  # ingest rejects and counts such lines
        if isinstance(row, dict):
            yield row


def _rows(file: Path, kind: Format, separator: str, wanted: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    if kind == "parquet":
        for batch in pq.ParquetFile(file).iter_batches(65_536, columns=list(wanted)):
            yield from zip(*(batch.column(name).to_pylist() for name in wanted), strict=True)
    elif kind == "json":
        for found in _objects(file):
            yield tuple(found.get(name) for name in wanted)
    else:
        reader = csv.reader(lines(file), delimiter=separator)
        header = [name.strip() for name in next(reader)]
        at = [header.index(name) for name in wanted]
        for row in reader:
            if len(row) == len(header):
                yield tuple(row[i].strip() or None for i in at)


def is_number(text: str) -> bool:
    """Whether Python reads the text as a number; nan and inf are numbers, too."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def present(values: Sequence[Any]) -> list[Any]:
    """The values that are there: neither None, nor blank, nor an empty list."""
    return [value for value in values if value is not None and value != [] and str(value).strip() != ""]


# ---- layouts that are known -------------------------------------------------------------------------------------------


def movielens_folder(path: Path) -> Path | None:
    """The folder, if there is a MovieLens log at the path."""
    folder = path if path.is_dir() else path.parent
    logs = [path.name] if path.is_file() else list(MOVIELENS_LOGS)
    return folder if any(name in MOVIELENS_LOGS and (folder / name).is_file() for name in logs) else None


def sequence_file(path: Path) -> Path | None:
    """The first file at the path that holds one user a line: words between blanks, of different number, each line with a new first."""
    files = [path] if path.is_file() else [file for file in visible(path) if file.is_file()]
    return next((file for file in files if _is_sequences(file)), None)


def _is_sequences(file: Path) -> bool:
    try:
        if format_of(file) != "csv":
            return False
        head = [line.split() for line in itertools.islice(lines(file), 1000) if line.strip()]
    except DAMAGE:
        return False
    if len(head) < 2 or any(set("".join(words)) & set(",;|\"'.:()") for words in head):
        return False
    widths = {len(words) for words in head}
    return len({words[0] for words in head}) == len(head) and min(widths) > 1 and len(widths) > 1


def attributes_file(sequences: Path) -> Path | None:
    """A JSON file {item: [values]} beside the sequences that speaks of the same items."""
    items = {item for line in itertools.islice(lines(sequences), 1000) for item in line.split()[1:]}
    for file in visible(sequences.parent):
        try:
            data = json.loads(file.read_text(encoding="utf-8")) if file.suffix == ".json" else None
        except (OSError, ValueError):
            continue
        if isinstance(data, dict) and items & data.keys() and all(isinstance(values, list) for values in data.values()):
            return file
    return None
