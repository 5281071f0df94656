"""What a verb of the command is: its options and what it does with them."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conf.command import add_arguments, guarded

Arguments = argparse.Namespace
Options = Callable[[argparse.ArgumentParser], None]


def positive(text: str) -> int:
    """A whole number from 1 on; argparse refuses others by this function's name."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


@dataclass(frozen=True)
class Verb:
    """doc: one line for the list. run: name of the verb, argv after it -> exit code."""

    doc: str
    run: Callable[[str, Sequence[str]], int]


def verb(doc: str, body: Callable[[Arguments], int], options: Options | None = None, *, common: bool = True) -> Verb:
    """A verb that parses its arguments and gives them to `body`.

    options: adds what it takes beside the common options (none of them where `common` is False), or takes the place of one.
    """

    def run(name: str, argv: Sequence[str]) -> int:
        parser = argparse.ArgumentParser(prog=f"trichannel {name}", description=doc, conflict_handler="resolve")
        if common:
            add_arguments(parser)
        if options is not None:
            options(parser)
        arguments = parser.parse_args(argv)
        return guarded(lambda: body(arguments))

    return Verb(doc, run)
