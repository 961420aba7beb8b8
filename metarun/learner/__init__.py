"""A trained initialisation, used: load a run, adapt it to a support set, predict. It needs no training data."""
