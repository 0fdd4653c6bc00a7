"""What if: the recorded days replayed under other prices or other limits."""
