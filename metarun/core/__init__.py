"""One task, as pure functions of tensors."""
