"""What the scripts beside this folder share, and the sides of bench_step.py."""
