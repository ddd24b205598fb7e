"""Vertical slices beside the trainer, which imports none of them: each holds one tool's commands,
its logic and its texts.
"""
