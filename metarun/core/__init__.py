"""One task as pure functions of tensors: losses, inner loops, hypergradients, random numbers."""
