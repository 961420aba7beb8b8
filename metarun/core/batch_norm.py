"""Which statistics batch norm uses for the query set at evaluation: the setting that moves few-shot numbers most.

In inner steps batch norm always uses the statistics of the support batch. The network is run to find where it uses
batch norm: every call of torch's batch norm or of ``norm_relu_pool`` counts, from any module.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap
from torch.overrides import TorchFunctionMode

from metarun.core.ops import norm_relu_pool
from metarun.core.stateless import stateless
from metarun.core.tree import Params
from metarun.errors import ConfigError, did_you_mean

Forward = Callable[[Params, Tensor], Tensor]


class Norm(enum.Enum):
    """Examples from which batch norm takes mean and variance for the query set.

    Attributes:
        transductive: the query batch, so that a prediction depends on the other queries (MAML).
        support: the support set.
        support_plus_one: the support set and one query example; each query is predicted alone (Reptile).
        all: each of the three, side by side.
    """

    transductive = "transductive"
    support = "support"
    support_plus_one = "support_plus_one"
    all = "all"

    @staticmethod
    def one(name: str, key: str) -> Norm:
        """Return the norm of a name, which is not ``all``.

        Args:
            name: the name.
            key: the setting, for the message.

        Raises:
            ConfigError: there is no such norm.
        """
        known = [norm.name for norm in Norm if norm is not Norm.all]
        if name not in known:
            raise ConfigError(key, name, f"one of {', '.join(known)}{did_you_mean(name, known)}")
        return Norm[name]

    def members(self, mixing: Mixing) -> list[Norm]:
        """List the norms to evaluate for a network.

        Args:
            mixing: how the examples of a batch influence each other in the network.

        Returns:
            Norms without ``all``; only ``transductive`` where all norms give the same outputs.

        Raises:
            ConfigError: support statistics are requested, and the network cannot use them.
        """
        if mixing is Mixing.none:
            return [Norm.transductive]
        if mixing is Mixing.other and self in (Norm.support, Norm.all):
            raise ConfigError(
                "eval.norm",
                self.name,
                "transductive or support_plus_one with this network, whose examples see each other by other means than "
                "torch's batch norm, so that support statistics cannot be put in their place",
            )
        return [n for n in Norm if n is not Norm.all] if self is Norm.all else [self]


class Mixing(enum.Enum):
    """How the examples of a batch influence each other in a network.

    Attributes:
        none: not at all; an output depends on its own example alone.
        statistics: through mean and variance in torch's batch norm, which can be replaced.
        other: in any other way, for example through a batch norm written by hand.
    """

    none = "none"
    statistics = "statistics"
    other = "other"

    @staticmethod
    def of(module: nn.Module, support: Tensor, query: Tensor, others: Tensor) -> Mixing:
        """Run the network to find how it mixes examples.

        The runs use float64, and parameters and examples with random changes: a scale of 0 hides the layers behind it,
        and equal examples cannot be distinguished. Where that fails, unchanged values are tried, then float32.

        Args:
            module: the network.
            support: [N*K, ...] support examples.
            query: [N*Q, ...] query examples.
            others: [N*K + N*Q, ...] further examples, as many as in both sets together.

        Returns:
            The kind of mixing; ``other`` if all runs fail or their outputs are not finite.
        """
        run = stateless(module)
        for dtype, share in itertools.product((torch.float64, torch.float32), (0.1, 0.0)):
            moved = functools.partial(_moved, share=share, dtype=dtype, generator=torch.Generator().manual_seed(0))
            state = {name: b.to(dtype) if b.is_floating_point() else b for name, b in module.named_buffers()}
            state |= {name: moved(p) for name, p in module.named_parameters()}
            forward = functools.partial(run, state)
            with contextlib.suppress(Exception), torch.no_grad():  # preflight.py reports failures
                found = _mixing(forward, moved(support), moved(query), moved(others))
                if found is not None:
                    return found
        return Mixing.other


def predict(forward: Forward, params: Params, support_x: Tensor, query_x: Tensor, norm: Norm) -> Tensor:
    """Predict one task's query set with the batch norm statistics of ``norm``.

    Args:
        forward: (params, x [B, ...]) -> outputs [B, outputs].
        params: adapted parameters.
        support_x: [N*K, ...] support examples.
        query_x: [N*Q, ...] query examples.
        norm: any but ``all``.

    Returns:
        Outputs [N*Q, outputs].
    """
    if norm is Norm.transductive:
        return forward(params, query_x)
    if norm is Norm.support:
        with StatisticsOfFirst(len(support_x), len(support_x) + len(query_x)):
            return forward(params, torch.cat([support_x, query_x]))[len(support_x) :]

    def alone(x: Tensor) -> Tensor:
        return forward(params, torch.cat([support_x, x[None]]))[-1]

    return vmap(alone, chunk_size=5)(query_x)  # all at once is 2 to 4 times slower on a CPU: it allocates too much


class StatisticsOfFirst(TorchFunctionMode):
    """Inside this mode, batch norm normalises a batch by the mean and variance of its first examples.

    Args:
        examples: number of examples, at the start of the batch, that the statistics are computed from.
        of: number of examples in the batch.
    """

    def __init__(self, examples: int, of: int):
        super().__init__()
        self.examples, self.of = examples, of

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = None
        if func is F.batch_norm:
            result = self._layer(*args, **kwargs)
        elif func is torch.batch_norm:
            result = self._operator(*args, **kwargs)
        elif func is norm_relu_pool:
            result = self._fused(*args, **kwargs)
        return func(*args, **kwargs) if result is None else result

    # Each returns None if batch norm does not use the batch's statistics, or if the rows of x are not the examples.

    def _layer(
        self, input: Tensor, running_mean: Any, running_var: Any, weight: Tensor | None = None,
        bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
    ) -> Tensor | None:  # fmt: skip
        return self._normalised(input, weight, bias, eps) if training else None

    def _operator(
        self, input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Any, running_var: Any,
        training: bool, momentum: float, eps: float, cudnn_enabled: bool,
    ) -> Tensor | None:  # fmt: skip
        return self._normalised(input, weight, bias, eps) if training else None

    def _fused(self, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, relu: bool, pool: bool) -> Tensor | None:
        y = self._normalised(x, gamma, beta, eps)
        if y is None:
            return None
        y = F.relu(y) if relu else y
        return F.max_pool2d(y, 2) if pool else y

    def _normalised(self, x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float) -> Tensor | None:
        if len(x) % self.of:
            return None
        first = x[: len(x) // self.of * self.examples]
        if first.numel() <= first.shape[1]:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {first.shape}")
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        variance, mean = torch.var_mean(first, axes, correction=0, keepdim=True)
        x = (x - mean) * torch.rsqrt(variance + eps)
        x = x if scale is None else x * scale.reshape(shape)
        return x if shift is None else x + shift.reshape(shape)


def _moved(x: Tensor, share: float, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Convert to ``dtype`` and change each number at random by about ``share`` of itself, and by about ``share``."""
    by = share * torch.randn((2, *x.shape), generator=generator, dtype=dtype).to(x.device)
    return x.detach().to(dtype) * (1 + by[0]) + share * by[1]


def _mixing(forward: Callable[[Tensor], Tensor], support: Tensor, query: Tensor, others: Tensor) -> Mixing | None:
    """The kind of mixing in this forward function; None if its outputs are not finite."""
    everybody, n = torch.cat([support, query]), len(support)
    plain = forward(everybody)
    if not plain.isfinite().all():
        return None
    if _alike(plain[n:], forward(query)) and _keep(forward, everybody, others, plain, free=0):
        return Mixing.none
    everybody[n] = support[0]  # as a query, this example must have the same output as in the support set
    with StatisticsOfFirst(n, len(everybody)):
        outputs = forward(everybody)
        kept = _keep(forward, everybody, others, outputs, free=n)
    right = kept and _alike(outputs[n], outputs[0]) and _alike(outputs[:n], forward(support))
    return Mixing.statistics if right else Mixing.other


def _keep(forward: Callable[[Tensor], Tensor], x: Tensor, others: Tensor, outputs: Tensor, free: int) -> bool:
    """Whether the outputs of the remaining examples stay the same when half of the examples are replaced.

    The first ``free`` examples are never replaced. Each half is tried, and two ways to halve: every second example, and
    a random half, since examples may influence each other in any pattern.
    """
    count = len(x) - free
    random = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    for order in (torch.arange(count), random):
        for changed in (0, 1):
            kept = torch.cat([torch.ones(free, dtype=torch.bool), order % 2 != changed]).to(x.device)
            after = forward(torch.where(kept.view(-1, *[1] * (x.ndim - 1)), x, others))
            if not _alike(after[kept], outputs[kept]):
                return False
    return True


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs differ by rounding at most."""
    return bool((a - b).abs().max() <= 1e3 * torch.finfo(a.dtype).eps * torch.maximum(a.abs().max(), b.abs().max()))
