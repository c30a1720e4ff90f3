"""Keys, masks and boxes of a secure sum: what two hospitals share, what hides a release, and letters between them.

Formal guarantee
    A pair's mask is a ChaCha20 stream under a key that only the two know (X25519 of their round keys, HKDF). One adds
    it and the other subtracts it, modulo 2^64, so it cancels in the sum and the sum is exact. The key is bound to its
    context: plan, round, attempt, key book and weights. In another context it is another key. A box is sealed by
    ChaCha20-Poly1305 under a key of the two hospitals' box keys, its context and a fresh salt: no key seals twice.
"""

import os
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from common.errors import MessageRefused
from common.wire.signing import canonical

KEY_BYTES = 32
BOX_BYTES = 64
"""A salt of 16, a share of 32 and a tag of 16: whole words of 8 bytes."""
_SALT = 16
_SLAB = 1 << 16
"""Values masked at a time, so that a mask takes no memory worth naming."""

Words = NDArray[np.uint64]
Context = dict[str, Any]


def new_private() -> bytes:
    """32 bytes of a new X25519 key, from the operating system's CSPRNG."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_of(private: bytes) -> bytes:
    """The public half of an X25519 key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def shared_key(private: bytes, public: bytes, context: Context, *, salt: bytes | None = None) -> bytes:
    """A key that only the owners of both halves can make, for one context alone.

    Args:
        private: Own half.
        public: The other's public half.
        context: Plain JSON types; another context gives another key.
        salt: Of HKDF.

    Raises:
        MessageRefused: The public half is no key, or one that gives the same secret with every other.
    """
    try:
        secret = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise MessageRefused("a key of the secure sum is no X25519 key") from error
    return derived(secret, context, salt=salt)


def require_public(public: bytes, *, whose: str) -> None:
    """Refuse a public half that shares no secret: who gave it is named before anybody books or masks by it.

    Args:
        public: Public half of an X25519 key.
        whose: Name of the hospital that gave it.

    Raises:
        MessageRefused: It is of low order, or no key.
    """
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise MessageRefused(f"a key of {whose!r} is no X25519 key") from error


def derived(secret: bytes, context: Context, *, salt: bytes | None = None) -> bytes:
    """A key of a secret, for one context alone.

    Args:
        secret: At least as secret as the key is to be.
        context: Plain JSON types.
        salt: Of HKDF (RFC 5869).
    """
    return HKDF(hashes.SHA256(), KEY_BYTES, salt, canonical(context)).derive(secret)


def mask(values: Words, key: bytes, *, sign: int) -> None:
    """Add a key's stream to values, in place, modulo 2^64.

    Args:
        values: [n], uint64.
        key: 32 bytes.
        sign: 1, or -1 to subtract.
    """
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    for start in range(0, len(values), _SLAB):
        part = values[start : start + _SLAB]
        stream = np.frombuffer(cipher.update(bytes(8 * len(part))), "<u8")
        if sign > 0:
            part += stream
        else:
            part -= stream


def seal(share: bytes, *, private: bytes, public: bytes, context: Context) -> bytes:
    """Put a share into a box that only the owner of `public` can open, and only as this sender's in this context.

    Args:
        share: 32 bytes.
        private: The sender's box key.
        public: The receiver's public box key.
        context: Who sends what to whom for what, plain JSON types.
    """
    salt = os.urandom(_SALT)
    key = shared_key(private, public, context, salt=salt)
    return salt + ChaCha20Poly1305(key).encrypt(bytes(12), share, None)


def unseal(box: bytes, *, private: bytes, public: bytes, context: Context) -> bytes:
    """Open a box.

    Args:
        box: What `seal` made.
        private: The receiver's box key.
        public: The sender's public box key.
        context: As it was sealed with.

    Raises:
        MessageRefused: It is of another sender, for another receiver or of another context, or was altered.
    """
    try:
        key = shared_key(private, public, context, salt=box[:_SALT])
        return ChaCha20Poly1305(key).decrypt(bytes(12), box[_SALT:], None)
    except (InvalidTag, ValueError) as error:
        raise MessageRefused("a box of the secure sum is not its sender's for this round") from error
