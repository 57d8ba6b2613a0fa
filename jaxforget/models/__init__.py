"""Models: families as data, the forward pass, weights in and out, adapters."""
