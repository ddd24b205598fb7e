"""What `bench.py` measures: the works, and the contestants, each a process of its own."""
