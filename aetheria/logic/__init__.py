"""Template Method: what a model is, and the pure step every strategy runs."""
