"""One connection: its record (`_record.py`), the table of its states (`_states.py`), and its owner task (`_owner.py`)."""
