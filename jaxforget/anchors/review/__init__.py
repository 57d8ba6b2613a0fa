"""A person's judgement of a dictionary: what was decided, a local page to decide on, and a plain-text form of it."""
