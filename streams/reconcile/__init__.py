"""Proof: log, state and history compared on a live system, once, continuously, or by folding the whole log anew."""
