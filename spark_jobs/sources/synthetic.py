"""The embedded data set: a generated click log, its users and its catalogue (spark_jobs/sources/planted.py says what is true of them)."""

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.sections.source import Synthetic
from conf.settings import Settings
from spark_jobs.sources import planted
from spark_jobs.sources.planted import DAY_S, ITEM, World, item_key, oracle_top, user_key, world
from spark_jobs.sources.raw import Raw, click_columns

__all__ = ["oracle_top", "source"]

MOODS = ("quiet", "bright", "rustic", "sleek", "wild", "gentle", "bold", "dusty")  # the direction of an item's style, in eight sectors
TOPICS: Mapping[str, str] = {  # category: nouns, one for each sector of style
    "harbor": "lanterns tides gulls anchors sails piers ropes fog",
    "kitchen": "knives ovens spices bread skillets ladles herbs broth",
    "garden": "roses hedges ferns ponds arbors bulbs trowels moss",
    "mountain": "ridges huts goats glaciers trails cairns summits larches",
    "jazz": "trumpets cellars solos ballads drummers standards encores brass",
    "space": "comets rovers orbits nebulas probes capsules craters antennas",
    "painting": "canvases easels frescoes pigments portraits murals sketches varnish",
    "cycling": "wheels climbs sprints saddles breakaways cobbles pedals jerseys",
    "history": "empires letters castles treaties caravans relics dynasties maps",
    "cinema": "reels matinees villains scripts cameos sequels projectors posters",
    "sewing": "needles quilts patterns threads buttons linens hems looms",
    "chess": "openings rooks gambits endgames clocks pawns studies bishops",
    "ocean": "reefs whales currents divers trenches corals shoals kelp",
    "rail": "locomotives viaducts signals sleepers stations tunnels carriages timetables",
    "robots": "sensors grippers servos circuits drones welders gears batteries",
    "poetry": "sonnets odes stanzas meters elegies verses rhymes couplets",
    "football": "derbies keepers corners penalties wingers trophies benches chants",
    "baking": "tarts brioches glazes doughs meringues scones crumbs ganache",
    "forest": "owls mushrooms clearings oaks foxes brooks lichens paths",
    "camera": "lenses tripods shutters darkrooms filters negatives flashes albums",
    "tea": "leaves kettles harvests teapots blends terraces whisks tins",
    "puzzle": "mazes riddles ciphers grids locks labyrinths tiles knots",
    "desert": "dunes oases camels mirages canyons cacti nomads salt",
    "theatre": "stages masks curtains monologues understudies costumes rehearsals balconies",
}


def source(spark: SparkSession, settings: Settings, ds: str) -> Raw:
    """The generated log as raw tables. Its last day is `source.default_ds`; for an earlier `ds`, ingest takes the days up to it."""
    config, first_day_s = settings.source.synthetic, first_day(settings)
    users = spark.range(config.users)
    clicks = users.mapInArrow(
        lambda batches: _click_batches(config, first_day_s, batches), "user_key string, item_key string, ts long, seq long"
    )
    given = {name: F.col(name) for name in clicks.columns}
    return Raw(
        clicks=clicks.select(*click_columns(**given, _file=F.lit("synthetic"), _row=F.lit(-1))),
        users=users.mapInArrow(lambda batches: _user_batches(config, batches), USERS_DDL),
        items=spark.range(config.items).mapInArrow(lambda batches: _item_batches(config, first_day_s, batches), ITEMS_DDL),
        has_clock=True,
        user_key_type="string",
        item_key_type="string",
    )


def first_day(settings: Settings) -> int:
    """Epoch seconds of the first midnight (UTC) of the log."""
    last = datetime.datetime.fromisoformat(settings.source.default_ds).replace(tzinfo=datetime.UTC)
    return int(last.timestamp()) - (settings.source.synthetic.days - 1) * DAY_S


def _click_batches(config: Synthetic, first_day_s: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    w = world(config)
    keys = np.array(planted.item_keys(w))
    for numbers in _blocks(batches):
        logs = [planted.click_log(w, user, first_day_s) for user in numbers]
        lengths = [len(items) for items, _ in logs]
        columns = [
            pa.array(np.repeat([user_key(user) for user in numbers], lengths)),
            pa.array(keys[np.concatenate([items for items, _ in logs])]),
            pa.array(np.concatenate([ts for _, ts in logs])),
            pa.array(np.concatenate([np.arange(n) for n in lengths])),
        ]
        yield pa.record_batch(columns, names=["user_key", "item_key", "ts", "seq"])


USERS_DDL = "user_key string, gender string, age_band string, city string"


def _user_batches(config: Synthetic, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    w = world(config)
    for numbers in _blocks(batches):
        tastes = [planted.taste(w, user) for user in numbers]
        rows = [(user_key(user), t.gender, t.age, t.city) for user, t in zip(numbers, tastes, strict=True)]
        yield _batch(rows, ["user_key", "gender", "age_band", "city"], [pa.string()] * 4)


ITEMS_DDL = "item_key string, publish_ts long, eligible boolean, category string, tags array<string>, title string"


def _item_batches(config: Synthetic, first_day_s: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    w = world(config)
    types = [pa.string(), pa.int64(), pa.bool_(), pa.string(), pa.list_(pa.string()), pa.string()]
    for numbers in _blocks(batches):
        rows = [(item_key(w, item), *_describe(w, item, first_day_s)) for item in numbers]
        yield _batch(rows, ["item_key", "publish_ts", "eligible", "category", "tags", "title"], types)


def _describe(w: World, item: int, first_day_s: int) -> tuple[int, bool, str | None, list[str], str]:
    """publish_ts, eligible, category, tags, title: what a catalogue would say of the item, noise and gaps included."""
    rng = planted.generator(w.config, ITEM, item)
    topic = item % w.config.topics
    named = topic if rng.random() >= 0.1 else int(rng.integers(w.config.topics))  # one in ten stands in the wrong category
    nouns = list(TOPICS.values())[topic % len(TOPICS)].split()
    sector = int(np.floor((np.arctan2(w.style[item, 1], w.style[item, 0]) / (2 * np.pi) + 0.5) * 8)) % 8
    mood, noun, other = MOODS[sector], nouns[sector], nouns[int(rng.integers(8))]
    tags = [mood, noun] + ([other] if other != noun else [])
    published = first_day_s - int(rng.integers(1, 700)) * DAY_S
    title = f"{mood} {topic_name(topic)} {noun}" + (f" and {other}" if other != noun else "")
    return published, True, topic_name(named) if rng.random() >= 0.02 else None, tags if rng.random() >= 0.05 else [], title


def topic_name(topic: int) -> str:
    """The category of a topic 0..; numbered beyond the names we have."""
    name, again = list(TOPICS)[topic % len(TOPICS)], topic // len(TOPICS)
    return f"{name}-{again + 1}" if again else name


def _blocks(batches: Iterable[pa.RecordBatch], size: int = 512) -> Iterator[list[int]]:
    for batch in batches:
        numbers = batch.column(0).to_pylist()
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]


def _batch(rows: Sequence[tuple[Any, ...]], names: list[str], types: list[pa.DataType]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), types, strict=True)], names=names)
