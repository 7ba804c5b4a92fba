"""JSON-RPC as MCP speaks it, for every wire of ours.

`_messages.py` knows what a message is, `_outbound.py` the requests that wait for an answer, `_inbound.py` what the server
sends of its own accord. How bytes travel is for the wire to say: `stdio/`, `http/`.
"""
