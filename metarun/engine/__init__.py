"""Many tasks at once: batching, traces, kernels, ranks."""
