"""Raw formats: one file each. A new one is a new file, a line in SOURCES, and its name in conf.settings.Source.kind."""

from collections.abc import Callable, Mapping

from pyspark.sql import SparkSession

from conf.settings import Settings
from spark_jobs.sources import generic, movielens, sequences, synthetic
from spark_jobs.sources.raw import Raw

SOURCES: Mapping[str, Callable[[SparkSession, Settings, str], Raw]] = {
    "generic": generic.source,
    "movielens": movielens.source,
    "sequences": sequences.source,
    "synthetic": synthetic.source,
}
