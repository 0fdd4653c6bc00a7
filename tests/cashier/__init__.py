"""Tests of purchases and payment providers, on Kafka and a stand-in for Stripe."""
