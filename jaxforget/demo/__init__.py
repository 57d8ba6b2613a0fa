"""A toy world, small enough to run the whole method on two CPU cores."""
