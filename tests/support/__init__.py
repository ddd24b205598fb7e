"""What several tests share: configs, models, programs, data, and ways to start a run."""
