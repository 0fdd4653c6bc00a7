"""Tests of what services embed: producers, admissions, the gateway, and what they do while Meterline is away."""
