"""Tables of what was measured."""

from typing import Final

from conf.schemas.table import Column, Table

EVALUATION: Final = (
    Table(
        "metrics_user",
        "one user x channel x N",
        (
            Column("run_id", "string", "run of the candidates"),
            Column("user_idx", "int32", "row number in user_index"),
            Column("channel", "string", "a channel, 'merged', or a baseline"),
            Column("n", "int32", "cut-off N"),
            Column("recall", "float64", "hits / truth, in [0, 1]"),
            Column("precision", "float64", "hits / N, in [0, 1]"),
            Column("ndcg_hit", "float64", "NDCG normalised by the number of hits"),
            Column("ndcg_std", "float64", "NDCG normalised by min(|truth|, N)"),
            Column("hr", "float64", "1 if any hit"),
            Column("mrr", "float64", "1 / rank of the first hit, 0 without one"),
            Column("novelty", "float64", "bits: mean of -log2 of the items' shares of the train clicks; null = no list", nullable=True),
            Column("pop_share", "float64", "share of the list's items that are of the head; null = no list", nullable=True),
            Column(
                "diversity", "float64", "share of its pairs of items that differ in category; null = no pair or category", nullable=True
            ),
            Column("n_truth", "int32", "different held-out items of the user"),
            Column("n_hit", "int32", "of them in the first N"),
            Column("n_click", "int32", "held-out clicks of the user"),
            Column("n_click_hit", "int32", "of them on an item of the first N"),
            Column(
                "n_asof", "int32", "of U2I: held-out clicks with a list of their own, as of just before them; null elsewhere", nullable=True
            ),
            Column("n_asof_hit", "int32", "of them on an item of the first N of that list; null elsewhere", nullable=True),
        ),
        ("user_idx", "channel", "n"),
        derived=True,
        may_be_empty=True,
    ),
    Table(
        "metrics",
        "one number",
        (
            Column("run_id", "string", "run of the candidates"),
            Column("dataset", "string", "source kind"),
            Column("model", "string", "model id; of a baseline its name and parameters"),
            Column("setting", "string", "variant"),
            Column("channel", "string", "a channel, 'merged', a baseline, or 'vectors': those of users and items themselves"),
            Column(
                "metric",
                "string",
                "a float column of metrics_user, hit_cut, hit_click, coverage, gini; of 'vectors' ui_align, uu_uniform, ii_uniform",
            ),
            Column("n", "int32", "cut-off N; 0 = it has none"),
            Column("slice", "string", "'all', or a group of users or of held-out items (docs/jobs.md)"),
            Column("value", "float64", "mean over users; or what the metric is"),
            Column("n_users", "int32", "users averaged over; of 'vectors' pairs or vectors"),
            Column("ci_lo", "float64", "95 % interval of the mean; null where there is none", nullable=True),
            Column("ci_hi", "float64", "95 % interval of the mean; null where there is none", nullable=True),
        ),
        ("channel", "metric", "n", "slice"),
        derived=True,
        may_be_empty=True,
    ),
    Table(
        "metrics_yesterday",
        "one number of the candidates published before, on the clicks since; empty where there are none to score",
        (
            Column("candidates_ds", "string", "the day whose candidates are scored: the last one before that has any"),
            Column("run_id", "string", "run of those candidates"),
            Column("channel", "string", "a channel of that day, or 'merged'"),
            Column("metric", "string", "recall, precision, ndcg_hit, ndcg_std, hr, mrr, hit_cut, as in metrics"),
            Column("n", "int32", "cut-off N"),
            Column("value", "float64", "mean over users"),
            Column("n_users", "int32", "users averaged over"),
            Column("ci_lo", "float64", "95 % interval of the mean; null where there is none", nullable=True),
            Column("ci_hi", "float64", "95 % interval of the mean; null where there is none", nullable=True),
        ),
        ("channel", "metric", "n"),
        derived=True,
        may_be_empty=True,
    ),
)
