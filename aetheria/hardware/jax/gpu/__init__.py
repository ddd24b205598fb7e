"""What XLA computes slowly on a GPU where it has to give the same bits, in other forms."""
