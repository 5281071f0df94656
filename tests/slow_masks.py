"""The slow twin of conf.masks: sample by sample, bit by bit."""

from collections.abc import Collection

from conf.draws import u01
from conf.masks import UH_A, UH_B, UM_A, UM_B, VM_A, VM_B, Masking

WORDS = {"um_a": UM_A, "um_b": UM_B, "vm_a": VM_A, "vm_b": VM_B}


def bits(chosen: Collection[int]) -> int:
    return sum(1 << bit for bit in chosen)


def each(sample_id: int, num: int, p: float, seed: int, draw: int, what: int) -> int:
    if num < 2:
        return 0
    u = [float(u01(seed, sample_id, draw, what, bit)) for bit in range(num)]
    masked = {bit for bit in range(num) if u[bit] < p}
    if not masked:
        masked = {u.index(min(u))}
    elif len(masked) == num:
        masked -= {u.index(max(u))}
    return bits(masked)


def half(sample_id: int, num: int, seed: int, draw: int, what: int) -> int:
    return bits(sorted(range(num), key=lambda bit: float(u01(seed, sample_id, draw, what, bit)))[: num // 2])


def fields(masking: Masking, name: str, sample_id: int, draw: int) -> int:
    """name: um_a, um_b, vm_a or vm_b."""
    user, seed = name.startswith("um"), masking.seed
    num = masking.user_fields if user else masking.item_fields
    if num < 2:
        return 0
    if masking.strategy == "random_p":
        return each(sample_id, num, masking.p_field, seed, draw, WORDS[name])
    if masking.strategy == "rfm" and not masking.complementary:
        return half(sample_id, num, seed, draw, WORDS[name])
    of_a = WORDS[f"{name[:3]}a"]
    if masking.strategy == "rfm":
        mask = half(sample_id, num, seed, draw, of_a)
    else:
        patterns = masking.user_patterns if user else masking.item_patterns
        mask = patterns[int(float(u01(seed, sample_id, draw, of_a)) * num)]
    return mask if name.endswith("a") else 2**num - 1 - mask


def history(sample_id: int, hist_len: int, p: float, seed: int, draw: int, what: int) -> int:
    return bits([bit for bit in range(hist_len - 1) if float(u01(seed, sample_id, draw, what, bit)) < p])


def masks(masking: Masking, sample_id: int, hist_len: int) -> dict[str, int]:
    """By column of table samples, all draws."""
    found = {}
    for draw in range(masking.draws):
        for view in ("b",) if masking.strategy == "random_p" else ("a", "b"):
            found[f"um_{view}{draw}"] = fields(masking, f"um_{view}", sample_id, draw)
            what = UH_A if view == "a" else UH_B
            found[f"uh_{view}{draw}"] = history(sample_id, hist_len, masking.p_hist, masking.seed, draw, what)
            found[f"vm_{view}{draw}"] = fields(masking, f"vm_{view}", sample_id, draw)
    return found
