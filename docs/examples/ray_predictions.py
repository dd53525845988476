"""Classify the rows of parquet files on a Ray cluster: ray_predictions.py IN OUT MODEL WORKERS."""

import sys
from typing import Any

import ray

import qkv


class Classifier:
    """A model in a process of its own, which reads one batch of rows after another."""

    def __init__(self, model: str):
        self.classify = qkv.task("classify", model)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Return the rows with two more columns."""
        found = self.classify(rows["text"].tolist())
        labels, probabilities = [x.label for x in found], [x.probability for x in found]
        return {**rows, "label": labels, "probability": probabilities}


source, target, model, workers = sys.argv[1:]
ray.init(address="auto")
ray.data.DataContext.get_current().execution_options.preserve_order = True
rows = ray.data.read_parquet(source, columns=["text"])
rows = rows.map_batches(
    Classifier,
    fn_constructor_args=[model],
    batch_size=512,
    num_cpus=1,  # num_gpus=1 where there are any
    concurrency=int(workers),
)
rows.write_parquet(target)
