"""Where a site's noise and its sampling come from: ChaCha20, keyed by the operating system, or by a seed in simulation.

Formal guarantee
    The privacy proof needs noise and sampling masks that the adversary cannot predict. `SecureRandom.from_os` keys the
    stream with 32 bytes of the operating system's CSPRNG, afresh for every round; the key is never sent or logged, and
    written only for as long as its round is under way (`client.ledger.noise_key`). `SecureRandom.simulated` is for
    public or synthetic data only; `client.app` refuses it to a site daemon.
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
_MOST_UNIFORM = math.nextafter(1.0, 0.0)
"""The middle of the last step would round to 1, and a patient with that value would not be drawn at a rate of 1."""
_BLOCK = 1 << 13
"""Normal values made at a time: their intermediate arrays fit a processor's cache."""


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

    def words(self, count: int) -> NDArray[np.uint64]:
        """`count` independent 64-bit words."""
        return np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")

    def uniform(self, count: int) -> NDArray[np.float64]:
        """`count` values in (0, 1), multiples of 2^-53 shifted by half a step; never 0 or 1."""
        middles = _spread(self.words(count) >> np.uint64(11), np.empty(count), width=1.0)
        return np.minimum(middles, _MOST_UNIFORM, out=middles)

    def normal(self, shape: tuple[int, ...], *, std: float) -> NDArray[np.float64]:
        """Gaussian noise of this shape, float64, mean 0."""
        count = math.prod(shape)
        noise = np.empty(count + count % 2)
        maker = _NormalMaker(self._stream, most=min(_BLOCK, len(noise)), std=std)
        for first in range(0, len(noise), _BLOCK):
            maker.fill(noise[first : first + _BLOCK])
        return noise[:count].reshape(shape)

    def poisson_sample(self, population: int, *, rate: float) -> NDArray[np.int64]:
        """Indices of a Poisson sample: each of `population` patients with probability `rate`, independently."""
        return np.flatnonzero(self.uniform(population) < rate)

    def torch_generator(self) -> torch.Generator:
        """A torch generator seeded from this stream, for draws that need not be secret (augmentation, latents)."""
        word = int.from_bytes(self._stream.update(bytes(8)), "little")
        return torch.Generator().manual_seed(word >> 1)


class _NormalMaker:
    """Makes normal values a block at a time, in arrays that it keeps.

    Two uniforms make two Box-Muller draws, the cosine's and the sine's, and both are used: in different values, so that
    the draws that are added up are independent. Torch computes the functions, several times faster than NumPy.
    """

    def __init__(self, stream: CipherContext, *, most: int, std: float) -> None:
        words = _DRAWS * most
        self._stream = stream
        self._zeros = memoryview(bytes(8 * words))  # what the cipher is applied to: the key stream itself
        self._bytes = bytearray(8 * words)
        self._integers = np.empty(words, dtype=np.uint64)
        self._radius, self._angle = np.empty(words // 2), np.empty(words // 2)
        self._scale = -2.0 * std**2 / _DRAWS

    def fill(self, out: NDArray[np.float64]) -> None:
        """Fill an array of even length with independent normal values."""
        half, pairs = _DRAWS * len(out) // 2, len(out) // 2
        self._stream.update_into(self._zeros[: 16 * half], self._bytes)
        words = np.frombuffer(self._bytes, dtype="<u8", count=2 * half)
        integers = np.right_shift(words, np.uint64(11), out=self._integers[: 2 * half])
        unit = _spread(integers[:half], self._radius[:half], width=1.0)
        radius = torch.from_numpy(unit).view(_DRAWS, pairs).log_().mul_(self._scale).sqrt_()
        turn = _spread(integers[half:], self._angle[:half], width=2.0 * math.pi)
        angle = torch.from_numpy(turn).view(_DRAWS, pairs)
        cosines, sines = torch.from_numpy(out).view(2, pairs)
        torch.sum(torch.cos(angle).mul_(radius), 0, out=cosines)
        torch.sum(angle.sin_().mul_(radius), 0, out=sines)


def _spread(integers: NDArray[np.uint64], out: NDArray[np.float64], *, width: float) -> NDArray[np.float64]:
    """Map 53-bit integers to the middles of the 2^53 steps of (0, width)."""
    np.multiply(integers, width * 2.0**-53, out=out)
    out += width * 2.0**-54
    return out
