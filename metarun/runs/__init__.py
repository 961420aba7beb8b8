"""One run and its folder: train, evaluate, save, resume."""
