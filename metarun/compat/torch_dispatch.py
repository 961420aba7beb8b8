"""Names for replacing or observing torch's functions and operators that are not public. Last seen in torch 2.13."""

from torch.overrides import has_torch_function_unary
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["TorchDispatchMode", "has_torch_function_unary"]
