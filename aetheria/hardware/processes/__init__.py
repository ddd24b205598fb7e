"""The processes of one run: how they start, connect, agree on a stop, and end.

This package knows no device and no framework. In the order of a run: `launch.py` finds out from the
environment whether there are several processes; `rendezvous.py` connects them; `process_group.py`
is how they exchange values; `agreed_stop.py`, `watchdog.py` and `signals.py` end them together.
"""
