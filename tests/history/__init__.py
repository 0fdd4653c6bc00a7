"""Tests of the questions to the history, on lives of projects in the real engine."""
