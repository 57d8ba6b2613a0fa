"""Code that the scripts share, and the sides of bench_step.py."""
