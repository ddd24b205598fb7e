"""Strategy: where a model is trained.

`jax/` and `torch/` are the two backends, with the same file names for the same thing; `strategy`
is what both promise; `layout/` is the state and the reports that both keep; `processes/` is how
several processes become one run, and knows no device. Nothing here knows the engine that drives a
program.
"""
