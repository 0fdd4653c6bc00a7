"""The tests mirror the packages that they test; beside those, the simulation, the benchmarks and the tidy checks."""
