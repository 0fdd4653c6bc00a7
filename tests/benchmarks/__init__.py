"""`meterline bench`: what one machine carries, measured beside rivals; and the tests of the benchmarks."""
