"""The chaos benchmark: parts are killed, paused and wiped under load, and each request is accounted for."""
