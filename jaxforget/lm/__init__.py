"""A loaded model and the ways to query it: scoring, continuations, generation."""
