"""The worker, a Faust process: it accepts usage, owns accounts, and recovers them. `agents.py` has the flow."""
