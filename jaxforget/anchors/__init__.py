"""Anchors found in the text itself: counted, set against general language, told apart by kind, given counterparts."""
