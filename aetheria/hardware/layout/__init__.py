"""What both backends agree on: the leaves of a state, the guard's counters, the rows of a report,
and the state of step 0. Pure functions of a model; no device is chosen here.
"""
