"""Shamir's secret sharing of keys: any T of n shares give the secret, T - 1 say nothing of it.

Each byte is shared on its own over GF(256) with the polynomial of AES (FIPS 197, section 4.2), as in Vault and SLIP-39.
Holder number i (from 1) has the value at i of a polynomial of degree T - 1 whose value at 0 is the secret.

Source:
    Shamir 1979, "How to share a secret".
"""

import os
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
MOST_HOLDERS = 255


def _tables() -> tuple[_Bytes, NDArray[np.int64]]:
    """Powers of the generator 3, twice over so that a sum of two logarithms needs no remainder, and logarithms."""
    powers, logarithms, value = np.zeros(510, np.uint8), np.zeros(256, np.int64), 1
    for exponent in range(255):
        powers[exponent] = powers[exponent + 255] = value
        logarithms[value] = exponent
        doubled = value << 1 ^ (0x11B if value & 0x80 else 0)
        value ^= doubled
    return powers, logarithms


_POWERS, _LOGARITHMS = _tables()


def times(left: _Bytes, right: _Bytes) -> _Bytes:
    """Product in GF(256), value by value."""
    product = _POWERS[_LOGARITHMS[left] + _LOGARITHMS[right]]
    return np.where((left == 0) | (right == 0), np.uint8(0), product)


def split(
    secret: bytes, *, threshold: int, holders: int, random: Callable[[int], bytes] = os.urandom
) -> tuple[bytes, ...]:
    """Share a secret among holders 1 to n, in their order.

    Args:
        secret: Any bytes.
        threshold: T, how many shares give the secret.
        holders: n.
        random: Gives that many unpredictable bytes.

    Raises:
        ValueError: T or n is out of bounds.
    """
    if not 1 <= threshold <= holders <= MOST_HOLDERS:
        raise ValueError(f"a secret cannot be shared among {holders} so that {threshold} suffice")
    size = len(secret)
    higher = np.frombuffer(random(size * (threshold - 1)), np.uint8).reshape(threshold - 1, size)
    points = np.arange(1, holders + 1, dtype=np.uint8)[:, None]
    shares = np.zeros((holders, size), np.uint8)
    for row in (*higher, np.frombuffer(secret, np.uint8)):  # Horner, the constant term last
        shares = times(shares, points) ^ row
    return tuple(share.tobytes() for share in shares)


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret, from the shares of at least T holders by their number; wrong shares give a wrong secret.

    Raises:
        ValueError: There are no shares, they differ in length, or a holder's number is out of bounds.
    """
    sizes = {len(share) for share in shares.values()}
    if len(sizes) != 1 or not all(1 <= holder <= MOST_HOLDERS for holder in shares):
        raise ValueError("the shares are not of one secret")
    points = np.array(sorted(shares), np.uint8)
    secret = np.zeros(sizes.pop(), np.uint8)
    for place, point in enumerate(points):
        others = np.delete(points, place)
        above = int(_LOGARITHMS[others].sum()) - int(_LOGARITHMS[others ^ point].sum())
        weight = _POWERS[above % 255]
        secret ^= times(np.frombuffer(shares[int(point)], np.uint8), weight)
    return secret.tobytes()
