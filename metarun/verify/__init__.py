"""Check the meta-gradients against independent computations, and measure speed."""
