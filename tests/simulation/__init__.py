"""The simulation: whole Meterlines from seeds, in one process, in which everything goes wrong."""
