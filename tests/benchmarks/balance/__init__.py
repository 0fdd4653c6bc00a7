"""The benchmark of balance look-ups: by HTTP, beside a bare route with a constant answer."""
