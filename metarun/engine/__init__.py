"""Many tasks at once: batching, traces, native kernels and ranks."""
