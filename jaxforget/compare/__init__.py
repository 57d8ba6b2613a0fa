"""Comparison of unlearning methods under one budget."""
