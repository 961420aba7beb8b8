"""Task-batched operations: convolution and batch norm for T tasks at once, each task with its own parameters."""
