"""Proofs of resume and of elastic reproducibility, each with a negative control."""
