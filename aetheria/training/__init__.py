"""One run, from its request to its summary: what the command line and Python have in common."""
