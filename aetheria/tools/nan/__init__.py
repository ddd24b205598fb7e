"""Where a loss or a gradient stopped being finite."""
