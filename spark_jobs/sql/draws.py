"""The counter-based random numbers of `conf.draws`, bit for bit, as Spark SQL columns.

Unsigned arithmetic modulo 2^64 is that of bigint, which wraps as long as spark.sql.ansi.enabled is false; else Spark raises an overflow.
"""

from collections.abc import Callable

from pyspark.sql import Column
from pyspark.sql import functions as F


def _signed(word: int) -> int:
    """The bigint with the same 64 bits."""
    return (word + 2**63) % 2**64 - 2**63


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_M1, _M2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def let(value: Column, body: Callable[[Column], Column]) -> Column:
    """body(value), where the plan holds `value` once however often `body` names it; SQL has no other way to name a value."""
    return F.transform(F.array(value), body)[0]


def mix(z: Column) -> Column:
    """splitmix64's output function on bigint."""

    def shifted(z: Column, bits: int) -> Column:
        return z.bitwiseXOR(F.shiftrightunsigned(z, bits))

    once = let(z + _GOLDEN, lambda z: shifted(z, 30) * _M1)
    twice = let(once, lambda z: shifted(z, 27) * _M2)
    return let(twice, lambda z: shifted(z, 31))


def next_word(state: Column, word: Column | int) -> Column:
    """The chain's state after one more word: words64(seed, a, b) = next_word(words64(seed, a), b)."""
    word = F.lit(_signed(word)) if isinstance(word, int) else word
    return mix(state.bitwiseXOR(word.cast("bigint") * _GOLDEN))


def words64(seed: int, *words: Column | int) -> Column:
    """bigint with the 64 bits of `conf.draws.words64`."""
    state = F.lit(_signed(seed)).cast("bigint")
    for word in words:
        state = next_word(state, word)
    return state


def draws53(num: int, seed: int, *words: Column | int) -> Column:
    """array<bigint> of length `num`: u01(seed, *words, 0), u01(seed, *words, 1), ... of `conf.draws`, times 2^53."""
    last = F.sequence(F.lit(0), F.lit(num - 1))
    return let(words64(seed, *words), lambda state: F.transform(last, lambda place: F.shiftrightunsigned(next_word(state, place), 11)))
