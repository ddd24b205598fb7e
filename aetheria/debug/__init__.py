"""Finding out what went wrong in a run, from what it left behind."""
