"""One self-contained page about a day's run: the verdict, metrics against baselines, the data funnel, training, retrieval, timings.

Every number on the page stands in report.json too, and every metric is a cell of table `metrics`.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pyspark.sql import DataFrame

from conf.files import storage_faults
from conf.launchers import LAUNCHERS
from conf.manifest import Manifest, now
from conf.settings import Settings
from conf.storage import Store
from spark_jobs.conclusions import conclusions
from spark_jobs.contributions import contributions
from spark_jobs.funnel import funnel, recent_days
from spark_jobs.job import Artefact, Context, Job, main
from spark_jobs.report_names import BASELINES, NAMES, count
from spark_jobs.report_page import Cells, index_cells, render
from spark_jobs.showcase import overlap, sample_users
from spark_jobs.significance import ALPHA
from spark_jobs.standings import Standing, standings
from spark_jobs.training_curves import training

OVERLAP_USERS: Final = 2_000
DAYS_SHOWN: Final = 7
# what two runs that made the same tables have in common: no times, no run ids
STABLE: Final = ("verdict", "at", "channels", "funnel", "overlap", "contributions", "users")


# ---- the verdict ---------------------------------------------------------------------------------------------------


def verdict(cells: Cells, n: int, *, users: int, stands: Sequence[Standing] = ()) -> dict[str, list[Any]]:
    """headline and lines, each a list of strings and of references to cells, which the page shows as numbers.

    A reference is {channel, metric, n} or, for a quotient of two channels, {of, channel, metric, n}.
    """
    if ("merged", "recall", n) not in cells:
        head = [f"Candidates for {count(users)} users are published; no click was held out, so nothing is scored."]
        return {"headline": head, "lines": [["Set split.kind to last_k or temporal to hold out clicks and score the channels on them."]]}

    def recall(channel: str, of: str | None = None) -> dict[str, Any]:
        return {"channel": channel, "metric": "recall", "n": n} | ({"of": of} if of else {})

    value = {c: cell["value"] for (c, metric, at), cell in cells.items() if metric == "recall" and at == n}
    lines: list[list[Any]] = []
    if value.get("oracle") and "u2i" in value:
        lines.append(["U2I alone finds ", recall("u2i"), ": ", recall("u2i", "oracle"), " of what an oracle that knows the tastes could."])
    elif "u2i" in value:
        lines.append(["U2I alone finds ", recall("u2i"), "."])
    found = [c for c in BASELINES if c in value]
    if found:
        listed = [part for c in found for part in (f"{NAMES[c][0]} ", recall(c), ", ")][:-1]
        lines.append(["For comparison: ", *listed, f". {_against(stands)}".rstrip()])
    return {"headline": [f"In {n} candidates, the merged list finds ", recall("merged"), " of a user's held-out clicks."], "lines": lines}


def _against(stands: Sequence[Standing]) -> str:
    """How the merged list stands against the baselines, all of them in mind; "" where one user cannot tell."""
    if not stands or any(line["p_corrected"] is None for line in stands):
        return ""
    beyond = [line for line in stands if line["p_corrected"] < ALPHA]
    better = [line for line in beyond if line["diff"] < 0]
    if better:
        return f"{NAMES[min(better, key=lambda line: line['diff'])['channel']][0]} is better than the merged list."
    level = [NAMES[line["channel"]][0] for line in stands if line not in beyond]
    if level:
        return f"{', '.join(['The merged list', *level[:-1]])} and {level[-1]} are level: no difference beyond chance."
    return "The merged list beats them all." if len(stands) > 1 else "The merged list beats it."


# ---- the document --------------------------------------------------------------------------------------------------


def document(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, Any]:
    """Everything the page shows, as JSON: what report.json holds."""
    settings, manifests = context.settings, context.manifests
    rows = [row.asDict() for row in tables["metrics"].collect()]
    cells = index_cells(rows)
    at = sorted(set(settings.evaluation.at))
    made = manifests["candidates"].counters
    users = int(made.get("candidates", made).get("users", manifests["user_index"].rows))
    present = {row["channel"] for row in rows}
    stands = standings(tables["metrics_user"], [c for c in BASELINES if c in present], max(at)) if rows else []
    status = context.store.read_status(context.run_id) or {}
    return {
        "run": {"ds": context.ds, "variant": context.store.variant, "run_id": context.run_id, "made_at": now()},
        "verdict": verdict(cells, max(at), users=users, stands=stands),
        "standings": stands,
        "facts": dict(_facts(context, users)),
        "users_served": users,
        "at": at,
        "channels": [c for c in ("merged", *settings.channels.names, *BASELINES, "oracle") if c in present],
        "metrics": sorted(rows, key=lambda row: (row["channel"], row["metric"], row["n"])),
        "scored": _scored(context),
        "yesterday": _yesterday(context, tables["metrics_yesterday"]),
        "funnel": funnel(manifests),
        "days": recent_days(context.store, context.ds, manifests, num=DAYS_SHOWN),
        "conclusions": conclusions(context.store, ds=context.ds),
        "training": training(read_lines(context, "model", "metrics.jsonl") if "model" in manifests else []),
        "balance": manifests["model"].counters.get("balance") if "model" in manifests else None,
        "index": json.loads(read_text(context, "index", "index.json")),
        "overlap": overlap(
            tables["channel_candidates"], tables["user_state"], channels=settings.channels.names, n=max(at), max_users=OVERLAP_USERS
        ),
        "contributions": _contributions(context, tables, max(at)),
        "users": sample_users(tables, context.registry, num=settings.report.sample_users, title_field=settings.title_field()),
        "stages": [stage for stage in status.get("stages", []) if "seconds" in stage],
        "versions": {k: v for manifest in manifests.values() for k, v in manifest.versions.items()},
    }


def _contributions(context: Context, tables: Mapping[str, DataFrame], n: int) -> dict[str, Any] | None:
    """What each channel adds, by the clicks that the split held out; None where lists are judged by those of a later day."""
    if "truth_ds" in context.manifests["metrics"].counters:
        return None
    names, seed = context.settings.channels.names, context.settings.split.seed
    return contributions(tables["channel_candidates"], tables["events"], channels=names, n=n, max_users=OVERLAP_USERS, seed=seed)


def _facts(context: Context, users: int) -> Iterator[tuple[str, str]]:
    """What was run, as (name, text), in the order of the page."""
    s, facts, manifests = context.settings, context.facts, context.manifests
    yield "Data", s.source.kind + ("" if facts.get("has_clock", True) else ", order of clicks only")
    held_out = f": a user's last {s.split.k} clicks are test, the {s.split.k} before them valid" if s.split.kind == "last_k" else ""
    yield "Split", s.split.kind + held_out
    yield "Sessions", str(facts.get("session_kind", s.session.kind))
    if "sem_nn" in manifests:
        yield "Semantic neighbours", _semantics(manifests["sem_nn"])
    yield "Users, items", f"{count(manifests['user_index'].rows)}, {count(manifests['item_index'].rows)}"
    yield from _training_facts(s) if "model" in manifests else [("Vectors", f"given, {facts['dim']} dimensions, {facts['similarity']}")]
    yield "Published", f"{count(users)} users, at most {s.merge.top} candidates each, layout {s.merge.layout}"
    for name in ("candidates", "model"):
        if name in manifests:
            yield f"Run of {name}", manifests[name].run_id


def _training_facts(s: Settings) -> Iterator[tuple[str, str]]:
    yield "Model", f"{s.model.encoder}, {s.model.dim} dimensions, {s.model.history} clicks of history"
    losses = [f"{s.base.weight:g} × {s.base.loss}"]
    if s.objectives.mic:
        mic = s.objectives.mic
        channels = {"user-item": mic.uv, "user-user": mic.uu, "item-item": mic.vv}
        weights = [f"{name} {weight if weight == 'learned' else f'{weight:g}'}" for name, weight in channels.items()]
        losses.append(f"{mic.weight:g} × MIC ({', '.join(weights)})")
    yield "Loss", " + ".join(losses)
    talk = {"horovod": "Horovod", "ddp": "torch.distributed"}.get(LAUNCHERS[s.trainer.launcher].backend)
    workers = f"{s.trainer.workers} {talk} workers" if talk else "one process"
    yield "Trained by", f"{workers}, batches of {count(s.trainer.batch)} from {s.trainer.batches}"


def _semantics(manifest: Manifest) -> str:
    """How items were compared: "tfidf of title"."""
    made = manifest.facts["semantics"]
    compared = f" of {made['field']}" if made["field"] else " of the source"
    return f"{made['kind']}{compared}" + (f", by {made['model']}" if made["model"] else "")


def _scored(context: Context) -> dict[str, Any]:
    """Whom the metrics are about and what the baselines took, from the counters of offline_metrics."""
    counters = context.manifests["metrics"].counters
    return {
        "users": counters.get("users_scored", 0),
        "truth_ds": counters.get("truth_ds"),
        "users_with_truth": counters.get("users_with_truth", 0),
        "truth_items": counters.get("truth_items", 0),
        "never_trained": counters.get("truth_items_never_trained", 0),
        "not_eligible": counters.get("truth_items_not_eligible", 0),
        "with_list": _under("users_with_list.", counters),
        "seconds": _under("seconds.", counters),
        "als_chosen": counters.get("als_chosen"),
        "als_valid_recall": counters.get("als_valid_recall", {}),
    }


def _yesterday(context: Context, metrics: DataFrame) -> dict[str, Any]:
    """What the candidates of the day before found since, or why that is not known."""
    counters = context.manifests["metrics_yesterday"].counters
    rows = [row.asDict() for row in metrics.orderBy("channel", "metric", "n").collect()]
    told = {name: counters.get(name) for name in ("candidates_ds", "users_scored", "users_with_truth", "skipped")}
    return {**told, "channels": sorted({row["channel"] for row in rows}, key=lambda c: (c != "merged", c)), "metrics": rows}


def _under(prefix: str, counters: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in counters.items() if name.startswith(prefix)}


def read_text(context: Context, artefact: str, name: str) -> str:
    """A file of an input artefact."""
    store = context.store
    with store.fs.open_input_stream(f"{store.folder_of(context.manifests[artefact])}/{name}") as stream:
        return str(stream.read().decode())


def read_lines(context: Context, artefact: str, name: str) -> list[dict[str, Any]]:
    """A JSON lines file of an input artefact."""
    return [json.loads(line) for line in read_text(context, artefact, name).splitlines() if line.strip()]


# ---- the files -------------------------------------------------------------------------------------------------------


def write(store: Store, folder: str, content: Mapping[str, Any]) -> Artefact:
    """Write report.html and report.json into the run folder."""
    with storage_faults(folder):
        for name, text in (("report.html", render(content)), ("report.json", json.dumps(content, indent=1, ensure_ascii=False))):
            with store.fs.open_output_stream(f"{folder}/{name}") as stream:
                stream.write(text.encode())
    rows = [{name: value for name, value in row.items() if name != "run_id"} for row in content["metrics"]]
    stable = json.dumps([rows, *(content[name] for name in STABLE)], sort_keys=True)
    identity = hashlib.sha256(stable.encode()).hexdigest()[:16]
    return Artefact(names=("report.html", "report.json"), rows=len(content["metrics"]), identity=identity)


def transform(context: Context, tables: Mapping[str, DataFrame]) -> Mapping[str, Artefact]:
    """Gather what the page shows, write it as HTML and JSON."""
    return {"report": write(context.store, context.folder("report"), document(context, tables))}


JOB = Job("report", transform, "Write the HTML report of the day.")

if __name__ == "__main__":
    sys.exit(main(JOB))
