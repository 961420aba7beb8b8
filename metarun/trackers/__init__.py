"""Experiment trackers: each shows runs elsewhere, as a reader of their folders. One file each, found by search."""
