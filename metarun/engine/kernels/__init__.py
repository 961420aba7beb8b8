"""Task-batched operations: convolution and batch norm for T tasks at once, each with its own parameters."""
