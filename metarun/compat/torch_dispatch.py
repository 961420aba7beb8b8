"""How functions and operators of torch are replaced or watched, beyond what is public. Last seen in torch 2.13."""

from torch.overrides import has_torch_function_unary
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["TorchDispatchMode", "has_torch_function_unary"]
