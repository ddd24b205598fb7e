"""Computes a run again from one snapshot to the next, and compares bit for bit."""
