"""Evaluation suites, one file each. Every figure names its convention."""
