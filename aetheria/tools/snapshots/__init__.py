"""The snapshots of a run, listed and verified."""
