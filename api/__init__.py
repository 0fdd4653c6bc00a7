"""Meterline's HTTP service and command line: the outermost layer, which nothing else imports."""
