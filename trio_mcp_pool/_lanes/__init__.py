"""What can happen to the sessions of one server and scope. `_lane.py` is the entrance."""
