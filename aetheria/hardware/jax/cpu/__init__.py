"""Workarounds for XLA's CPU backend, the C library and LAPACK, each with what was measured."""
