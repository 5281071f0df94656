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
            Column("ndcg_hit", "float64", "NDCG normalised by the number of hits"),
            Column("ndcg_std", "float64", "NDCG normalised by min(|truth|, N)"),
            Column("hr", "float64", "1 if any hit"),
            Column("n_truth", "int32", "held-out items of the user"),
            Column("n_hit", "int32", "of them in the first N"),
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
            Column("channel", "string", "a channel, 'merged', or a baseline"),
            Column("metric", "string", "recall, ndcg_std, ndcg_hit, hr, coverage"),
            Column("n", "int32", "cut-off N"),
            Column("slice", "string", "'all'"),
            Column("value", "float64", "mean over users, in [0, 1]"),
            Column("n_users", "int32", "users averaged over"),
            Column("ci_lo", "float64", "95 % interval of the mean; null for coverage", nullable=True),
            Column("ci_hi", "float64", "95 % interval of the mean; null for coverage", nullable=True),
        ),
        ("channel", "metric", "n", "slice"),
        derived=True,
        may_be_empty=True,
    ),
)
