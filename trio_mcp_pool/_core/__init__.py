"""The state of one pool. `_core.py` is the entrance."""
