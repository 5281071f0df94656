"""`trichannel init`: look at raw data and write settings that run, with every guess named at the top of the file."""

import re
from pathlib import Path

from conf.errors import Fault, StorageError, UsageError
from conf.settings import Settings, to_yaml
from spark_jobs.findings import finding_at
from spark_jobs.log_columns import quoted
from spark_jobs.recipes import AUTO, RECIPES, chosen, notes

SECTIONS = (
    *("storage", "source", "split", "session", "cooc", "samples", "model", "base", "objectives", "trainer"),
    *("merge", "evaluation", "report"),
)


def init(path: str, out: str, recipe: str = AUTO) -> str:
    """Write settings for the raw data at `path` (a file or folder) to the new file `out`, and return their text.

    recipe: of RECIPES, or auto.

    Raises:
        UsageError: `out` is there already, or cannot be written. NotReadyError: nothing at `path`. BadDataError: it holds no table.
        SchemaError: no table has columns of users and of items.
    """
    target = Path(out)
    if target.exists():
        raise UsageError(f"--out {out}", [Fault("the file is there already", fix="give another name, or remove it")])
    finding = finding_at(path)
    settings = Settings.model_validate(finding.settings | RECIPES[chosen(recipe, finding)](finding))
    head = [f"Settings for {quoted(path)}, written by trichannel init. Read the guesses, then: trichannel run --config {quoted(out)}"]
    text = "".join(f"# {line}\n" for line in [*head, *finding.notes, *notes(recipe, finding)])
    text += "\n" + without_generator(to_yaml(settings, only=SECTIONS))
    try:
        with target.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(f"--out {out}", [Fault("the file is there already", fix="give another name, or remove it")]) from None
    except OSError as error:
        raise StorageError(f"--out {out}", [Fault("cannot be written", str(error))], exit_code=UsageError.exit_code) from None
    return text


def without_generator(text: str) -> str:
    """The YAML without source.synthetic: settings of a generator only puzzle beside real data."""
    return re.sub(r"\n  # [^\n]*\n  synthetic:\n(?:    [^\n]*\n)*", "\n", text)
