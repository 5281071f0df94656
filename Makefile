SHELL := /bin/bash
.DEFAULT_GOAL := help
MILLIONS ?= 5
REPEATS ?= 5
ROWS ?= 1000000
BATCH ?= 1024,4096
DIM ?= 8
WORKERS ?= 2
USERS ?= 200000
FLAT_USERS ?= 4000
TOP ?= 500
SIZES ?= 5,50
DAY ?= 20
CHANNELS ?= u2i
ITEMS ?= 1000000
CONFIG ?= demo
SETS ?= ml-100k,shuffled,ml-1m,beauty,few,journey
SEEDS ?= 3
SPLIT ?= test
recbole = recbole==1.2.1 colorlog==4.7.2 colorama==0.4.4 texttable thop tensorboard protobuf absl-py
.PHONY: help setup demo check test test-all bench-spark bench-train bench-feed bench-profile bench-sharded bench-candidates bench-retrieval bench-metrics bench-baselines results package package-zip package-env clean

# Spark starts `java` from JAVA_HOME and its workers as `python3` from PATH: both as set-up found them.
in_env = JAVA_HOME="$$(cat .venv/java_home)" PATH="$(CURDIR)/.venv/bin:$$PATH"

single = --set trainer.launcher=single --set trainer.workers=1 --set trainer.batches=arrow

# two processes, each with a Spark of its own: a driver that plans leaves the second core idle
two_at_a_time = --numprocesses 2 --dist loadfile

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## everything that running needs, into .venv (the first time some minutes, later nothing)
	@scripts/setup

demo: setup  ## raw clicks to published candidates and a report, on generated data
	$(in_env) trichannel run --config demo

check: setup  ## lint, format, types
	$(in_env) ruff check .
	$(in_env) ruff format --check .
	$(in_env) mypy

test: check  ## check, then the tests
	$(in_env) python -m pytest $(two_at_a_time)

test-all: check  ## check, then all the tests, the slow ones too
	$(in_env) python -m pytest $(two_at_a_time) -m ''

bench-spark: setup  ## the data jobs beside Polars and DuckDB (MILLIONS=5 REPEATS=5 PEERS=<folder of peers.py>)
	$(in_env) python -c "import polars, duckdb" || $(in_env) python -m pip install --quiet -e ".[bench]"
	$(in_env) python bench/data_jobs.py --millions $(MILLIONS) --repeats $(REPEATS) $(if $(PEERS),--peers $(PEERS))

bench-train: setup  ## training steps beside torch-rechub and RecBole (ROWS=1000000 BATCH=1024,4096 REPEATS=5)
	$(in_env) python -c "import torch_rechub" || $(in_env) python -m pip install --quiet -e ".[bench]"
	test -d .venv/recbole || $(in_env) python -m pip install --quiet --no-deps --target .venv/recbole $(recbole)
	$(in_env) python bench/train_steps.py --rows $(ROWS) --batch $(BATCH) --repeats $(REPEATS)

bench-feed: BATCH = 1024
bench-feed: REPEATS = 3
bench-feed: setup  ## training fed by Arrow and Petastorm, one worker and two (BATCH=1024 REPEATS=3)
	$(in_env) python bench/train_feed.py --batch $(BATCH) --repeats $(REPEATS)

bench-profile: setup  ## where the time of a training step goes, as a picture (ROWS=1000000)
	$(in_env) python bench/step_profile.py --rows $(ROWS)

bench-sharded: ROWS = 50000000
bench-sharded: setup  ## memory of a worker with a large table, whole and divided (ROWS=50000000 DIM=8 WORKERS=2)
	$(in_env) python bench/sharded_table.py --rows $(ROWS) --dim $(DIM) --workers $(WORKERS)

bench-metrics: setup  ## offline metrics of millions of candidate rows: time and memory (SIZES=5,50 ITEMS=1000000)
	$(in_env) python bench/metrics_rows.py --sizes $(SIZES) --items $(ITEMS)

bench-candidates: setup  ## from given vectors to the candidate table, end to end (DAY=20 CHANNELS=u2i TOP=500; needs bench/data_jobs.py --millions 20 first)
	$(in_env) python bench/candidate_day.py --millions $(DAY) --channels $(CHANNELS) --top $(TOP)

bench-retrieval: REPEATS = 3
bench-retrieval: setup  ## our search in Spark beside raw FAISS (ROWS=1000000 USERS=200000 FLAT_USERS=4000 TOP=500 REPEATS=3)
	$(in_env) python bench/retrieval_search.py --rows $(ROWS) --users $(USERS) --flat-users $(FLAT_USERS) --top $(TOP) --repeats $(REPEATS)

bench-baselines: setup  ## simple baselines on the rows of a published day (CONFIG=movielens SET="source.path=... split.refit=true" SPLIT=test)
	$(in_env) python -c "import implicit" || $(in_env) python -m pip install --quiet -e ".[bench]"
	$(in_env) python bench/strong_baselines.py --config $(CONFIG) $(addprefix --set ,$(SET)) --split $(SPLIT)

results: setup  ## the first tables of docs/results.md, in about four hours (DATA=<folder of ml-100k, ml-1m, amazon-beauty, completejourney> SETS=ml-100k,shuffled,ml-1m,beauty,few,journey SEEDS=3)
	$(in_env) python -c "import implicit" || $(in_env) python -m pip install --quiet -e ".[bench]"
	$(in_env) python bench/real_data.py --data $(DATA) --sets $(SETS) --seeds $(SEEDS)
	$(in_env) trichannel grid parts --config mic_micrec --set source.path=$(DATA)/ml-100k --set trainer.epochs=8 $(single) --seeds $(SEEDS) --budget 3h --out docs/results.md

package: package-zip package-env  ## what a cluster needs: dist/trichannel.zip and dist/trichannel-env.tar.gz

package-zip: setup  ## dist/trichannel.zip: our code, for spark-submit --py-files
	$(in_env) python scripts/package zip

package-env: setup  ## dist/trichannel-env.tar.gz: what our code imports, for spark-submit --archives
	$(in_env) python scripts/package env

clean:  ## remove packages and caches; the environment stays (rm -rf .venv)
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
