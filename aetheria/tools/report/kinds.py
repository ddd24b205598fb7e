"""What the kinds of time mean, for a reader of the report."""

MEANINGS = {
    "start": "imports, data, the program, restoring a snapshot",
    "compile": "the first call of each step",
    "data": "waiting for training examples",
    "step": "training steps that were not recomputed",
    "evaluation": "passes over the evaluation and test splits",
    "snapshot": "saves that the training loop waited for",
    "recomputed": "steps repeated after a restart or a rollback",
    "downtime": "between two processes, or not recorded because of a kill",
}
