"""Proofs: a claim about runs, tested on real runs in processes of their own."""
