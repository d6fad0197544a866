"""Tests of the adapters for engines and trainers."""
