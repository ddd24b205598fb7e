"""The PyTorch backend: the same state, steps and reports as JAX's, for one rank's device. Of JAX it
uses what makes the state of step 0, and nothing of the other backend.
"""
