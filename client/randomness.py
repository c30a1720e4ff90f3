"""Where a site's noise and its sampling come from: ChaCha20, keyed by the operating system, or by a seed in simulation.

Formal guarantee
    The privacy proof needs noise and sampling masks that the adversary cannot predict. `SecureRandom.from_os` keys the
    stream with 32 bytes of the operating system's CSPRNG, afresh for every round; the key is never sent or logged, and
    written only for as long as its round is under way (`client.noise_key`). `SecureRandom.simulated` is for public or
    synthetic data only; `client.app` refuses it to a site daemon.
    Normal values are sums of four Box-Muller draws over two (Holohan & Braghin, 2107.10138), in float64, which closes
    the known attack on the low bits of a single floating-point draw.
"""

import hashlib
import json
import math
import os
from typing import Self

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
from numpy.typing import NDArray

_DRAWS = 4
"""Box-Muller draws per normal value; the attack's cost grows exponentially with it."""


class SecureRandom:
    """A stream of random values from one 32-byte ChaCha20 key. Not safe to share between threads."""

    def __init__(self, key: bytes) -> None:
        self._stream: CipherContext = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    @staticmethod
    def new_key() -> bytes:
        """32 bytes of the operating system's CSPRNG."""
        return os.urandom(32)

    @classmethod
    def from_os(cls) -> Self:
        """Key the stream with the operating system's CSPRNG."""
        return cls(cls.new_key())

    @classmethod
    def simulated(cls, seed: int, *context: str | int) -> Self:
        """Key the stream with a simulation's seed and a context such as (site, round): repeatable, not private."""
        return cls(hashlib.sha256(json.dumps([seed, *context]).encode()).digest())

    def uniform(self, count: int) -> NDArray[np.float64]:
        """`count` values in (0, 1), multiples of 2^-53 shifted by half a step; never 0 or 1."""
        words = np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")
        uniform: NDArray[np.float64] = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        return uniform

    def normal(self, shape: tuple[int, ...], *, std: float) -> NDArray[np.float64]:
        """Gaussian noise of this shape, float64, mean 0."""
        count = math.prod(shape)
        half = (count + 1) // 2
        total = np.zeros(2 * half)
        for _ in range(_DRAWS):
            radius = np.sqrt(-2.0 * np.log(self.uniform(half)))
            angle = 2.0 * np.pi * self.uniform(half)
            total[:half] += radius * np.cos(angle)
            total[half:] += radius * np.sin(angle)
        noise: NDArray[np.float64] = (total[:count] * (std / math.sqrt(_DRAWS))).reshape(shape)
        return noise

    def poisson_sample(self, population: int, *, rate: float) -> NDArray[np.int64]:
        """Indices of a Poisson sample: each of `population` patients with probability `rate`, independently."""
        return np.flatnonzero(self.uniform(population) < rate)

    def torch_generator(self) -> torch.Generator:
        """A torch generator seeded from this stream, for draws that need not be secret (augmentation, latents)."""
        word = int.from_bytes(self._stream.update(bytes(8)), "little")
        return torch.Generator().manual_seed(word >> 1)
