"""Rehearsals answer "what if": the recorded days are replayed under other prices or other limits."""
