"""`meterline bench hostile`: one hostile client at a time, of every kind, beside good callers."""
