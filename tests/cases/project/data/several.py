"""Inputs of several columns: a mapping, in a mapping."""

import numpy as np

from aetheria import ArraySource, DataSplits, RecordSource, register_data


@register_data("several")
def several(*, form: str = "arrays"):
    random = np.random.default_rng(0)
    wide, code, size = (
        random.normal(size=(16, 5)),
        random.integers(0, 4, 16),
        random.normal(size=16),
    )
    columns = {
        "inputs": {"wide": wide, "deep": {"code": code, "size": size}},
        "labels": wide.sum(1) + size,
    }
    if form == "flat":
        columns = {
            "inputs/wide": wide,
            "inputs/deep/code": code,
            "inputs/deep/size": size,
            "labels": columns["labels"],
        }
    if form == "records":
        rows = [
            {
                "inputs": {"wide": wide[i], "deep": {"code": code[i], "size": size[i]}},
                "labels": columns["labels"][i],
            }
            for i in range(16)
        ]
        return DataSplits(train=RecordSource(rows), eval=RecordSource(rows))
    return DataSplits(train=ArraySource(columns), eval=ArraySource(columns))
