"""Random numbers that are a pure function of a key: the same on every device, in any order, in any batch.

torch's generators differ between CPU and GPU and depend on what was drawn before. A task here must be a function
of (seed, split, task index) alone, so its randomness comes from SplitMix64 (Steele, Lea and Flood 2014, "Fast
splittable pseudorandom number generators", figure 17) written in int64 tensor arithmetic, which wraps the same
way everywhere. ``fold(key, i)`` is the i-th output of the generator seeded with ``key``, and is used as a new key.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_INVERSE = _signed(pow(0x9E3779B97F4A7C15, -1, 1 << 64))  # _INVERSE * _GOLDEN = 1 (mod 2^64)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift(z: Tensor, by: int) -> Tensor:
    """Shift right with zeros from the left (torch's >> keeps the sign)."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def fold(key: Tensor, index: Tensor | int) -> Tensor:
    """Derive the key of stream number ``index`` of ``key``; int64 tensors that broadcast."""
    if isinstance(index, int):
        z = key + _signed((index + 1) * _GOLDEN % (1 << 64))  # a Python int does not wrap by itself
    else:
        # key + (index + 1) * golden, in another form: TorchInductor turns products of an arange into products of a loop
        # counter in C++, where they must not wrap, and the C++ compiler then drops the end of that loop (torch 2.13)
        z = (key * _INVERSE + (index + 1)) * _GOLDEN
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def root(seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Make the key of a seed, an int64 scalar."""
    return fold(torch.tensor(seed, dtype=torch.int64, device=device), 0)


def bits(key: Tensor, count: int) -> Tensor:
    """Draw int64 words [..., count] for keys [...]."""
    return fold(key[..., None], torch.arange(count, device=key.device))


def uniform(key: Tensor, count: int) -> Tensor:
    """Draw float32 in [0, 1), [..., count] for keys [...], from 24 random bits each so that all devices round alike."""
    return _shift(bits(key, count), 40).to(torch.float32) / (1 << 24)


def normal(key: Tensor, count: int) -> Tensor:
    """Draw float32 from N(0, 1), [..., count] for keys [...].

    No absolute value is above 5.8. Two devices differ as much as their logarithms do.

    Source: Box and Muller 1958, "A note on the generation of random normal deviates".
    """
    unit = uniform(key, 2 * count).unflatten(-1, (count, 2))
    return (-2 * (1 - unit[..., 0]).log()).sqrt() * (2 * math.pi * unit[..., 1]).cos()


def integers(key: Tensor, count: int, below: int) -> Tensor:
    """Draw int64 in 0..below-1, [..., count] for keys [...]; the bias is less than below / 2**24."""
    return _shift(bits(key, count), 40) % below


def permutation(key: Tensor, length: int) -> Tensor:
    """Draw a random order of 0..length-1, [..., length] for keys [...]."""
    return bits(key, length).argsort(dim=-1)


def subset(key: Tensor, below: Tensor, most: int, size: int) -> Tensor:
    """Draw distinct integers in 0..below-1, in random order.

    Args:
        key: [...] keys.
        below: [...] int64 bounds.
        most: the largest bound.
        size: how many integers, at most the smallest bound.

    Returns:
        [..., size] int64; if all bounds equal ``most``, the first entries of ``permutation(key, most)``.
    """
    word = bits(key, most)
    beyond = torch.arange(most, device=key.device) >= below[..., None]
    return word.masked_fill(beyond, torch.iinfo(torch.int64).max).topk(size, largest=False).indices
