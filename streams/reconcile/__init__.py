"""Proof: log, state and history are compared on a live system, once, for ever, or by folding the whole log anew."""
