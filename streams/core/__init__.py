"""The rules of metering and credits, pure: no I/O, no clock, no randomness. README.md says what must always hold."""
