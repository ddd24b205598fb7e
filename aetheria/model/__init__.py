"""Template Method: what a researcher imports to write a model. Names no backend and no device."""
