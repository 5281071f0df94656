"""What the days before a day published, read from their manifests."""

from conf.errors import BadDataError
from conf.manifest import Manifest
from conf.storage import Store


def last_days(store: Store, job: str, table: str, ds: str, num: int) -> tuple[list[Manifest], list[str]]:
    """The table's current manifests of the last `num` committed days before ds in this variant, newest first; the days that are damaged."""
    found, damaged = list[Manifest](), list[str]()
    for day in reversed([day for day in store.days(job) if day < ds][-num:] if num else []):
        record = store.current(job, day)
        if record is None or table not in record.tables:  # taken back since the days were listed
            continue
        try:
            found.append(store.load_manifest(table, record))
        except BadDataError:  # an old day that is damaged must not stop a new one; the caller says which it left out
            damaged.append(day)
    return found, damaged
