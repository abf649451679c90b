"""What the updates of the runs recorded (every stage's metrics.jsonl), as tables with one row per update."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.paths import run_and_seed
from analysis.scores import read_rows

SMOOTHING = 0.05  # width of the moving average as a share of the curve
METRICS = ("reward", "response_tokens", "entropy", "finished", "logp_own", "logp_expert", "grad_norm", "guided")
COUNTS = ("graded_rollouts", "sampled_tokens", "trained_tokens_expert")
WEIGHTS = 21  # counts of `expert_weights`: twenty bins of .05 from 0 to 1, then above 1


def read_curves(paths: Sequence[Path]) -> pd.DataFrame:
    """One row per run, seed and update with METRICS and COUNTS; what a row of metrics lacks is NaN.

    The stages of one run and seed follow one another in the order given, `update` counts through them. `shares`, `terms` and
    `weights` hold what an update recorded as {share of the demonstration: % of the graded rollouts}, {term: gradient norm} and
    [21] counts; each is empty where there was nothing.
    """
    rows: list[dict[str, Any]] = []
    updates: dict[tuple[str, int], int] = {}
    for path in paths:
        run, seed = run_and_seed(path)
        for record in read_rows(path):
            updates[run, seed] = updates.get((run, seed), 0) + 1
            shares = guided_shares(record)
            weights = record.get("expert_weights") or []
            if weights and len(weights) != WEIGHTS:
                raise ValueError(f"{path} has {len(weights)} expert_weights, expected {WEIGHTS}: run the stage again")
            values = {name: record.get(name) for name in (*METRICS, *COUNTS)} | {"guided": guided_share(record)}
            nested = {"shares": shares, "terms": record.get("grad_norm_by_term") or {}, "weights": weights}
            rows.append({"run": run, "seed": seed, "update": updates[run, seed], **values, **nested})
    return pd.DataFrame(rows).astype(dict.fromkeys((*METRICS, *COUNTS), float))


def guided_shares(record: dict[str, Any]) -> dict[str, float]:
    """Per share of the demonstration that was shown: the percentage of an update's graded rollouts that continue it."""
    rollouts = record.get("graded_rollouts", 0)
    return {share: 100 * count / rollouts for share, count in record.get("guided", {}).items()} if rollouts else {}


def guided_share(record: dict[str, Any]) -> float:
    """Percentage of an update's graded rollouts that continue an expert prefix; NaN where nothing was sampled."""
    return sum(guided_shares(record).values()) if record.get("graded_rollouts") else float("nan")


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over SMOOTHING of the curve; at the ends over what there is. NaN stays NaN."""
    window = max(1, round(SMOOTHING * len(values)) | 1)
    averaged = pd.Series(values).rolling(window, center=True, min_periods=1).mean().to_numpy()
    return np.where(np.isnan(values), np.nan, averaged)


def by_seed(curves: pd.DataFrame, metric: str) -> pd.DataFrame:
    """[updates, seeds] of one run's metric, smoothed along each seed; without updates and seeds that have none."""
    table = curves.pivot(index="update", columns="seed", values=metric).dropna(how="all").dropna(how="all", axis=1)
    return table.apply(lambda column: smooth(column.to_numpy()))


def nested(curves: pd.DataFrame, column: str) -> pd.DataFrame:
    """[rows of curves, keys] of a column of {key: value}, keys sorted, indexed by update; NaN where a row lacks the key."""
    return pd.DataFrame(curves[column].tolist(), index=curves["update"]).sort_index(axis=1)


def third(update: int, last: int) -> int:
    """Whether an update, counted from 1, is in the early (0), middle (1) or late (2) third of a run's updates."""
    return 3 * (update - 1) // last


def weight_thirds(curves: pd.DataFrame) -> np.ndarray:
    """[3, 21] % of the trained expert tokens per weight in the early, middle and late third of one run's updates.

    All seeds together; a third without expert tokens is NaN.
    """
    counts = np.zeros((3, WEIGHTS))
    last = curves["update"].max()
    for update, weights in zip(curves["update"], curves["weights"], strict=True):
        if weights:
            counts[third(update, last)] += weights
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(100 * counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
