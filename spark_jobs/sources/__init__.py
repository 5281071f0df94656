"""Raw formats: one file each. A new one is a new file, a line in SOURCES, and its name in conf.sections.source.Source.kind."""

from collections.abc import Callable, Mapping

from pyspark.sql import SparkSession

from conf.settings import Settings
from spark_jobs.sources.amazon_reviews import source as amazon_reviews_source
from spark_jobs.sources.generic import source as generic_source
from spark_jobs.sources.movielens import source as movielens_source
from spark_jobs.sources.raw import Raw
from spark_jobs.sources.sequences import source as sequences_source
from spark_jobs.sources.synthetic import source as synthetic_source
from spark_jobs.sources.taobao import source as taobao_source

SOURCES: Mapping[str, Callable[[SparkSession, Settings, str], Raw]] = {
    "amazon_reviews": amazon_reviews_source,
    "generic": generic_source,
    "movielens": movielens_source,
    "sequences": sequences_source,
    "synthetic": synthetic_source,
    "taobao": taobao_source,
}
