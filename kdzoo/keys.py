"""Randomness by key: every draw is a pure function of what it is for, never of what was drawn before it.

A key is the hash of (seed, purpose, ...). It seeds a generator where a library insists on one, and is the
stream of `uniforms` where every sample of a batch needs numbers of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

# Weyl increment and finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
# generators", OOPSLA, figure 17): element i of a stream is reached without the elements before it.
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def key(seed: int, purpose: str, *place: int | str) -> int:
    """Hash what a draw is for into 63 bits.

    Args:
        seed: the run's seed, or an artifact's.
        purpose: what is drawn, for example "order", "views", "student".
        place: where, for example epoch and step. (0, 1) and (1, 0) give different keys.

    Returns:
        An integer in [0, 2^63), accepted by every seeding function.
    """
    text = json.dumps([int(seed), purpose, *place], separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def hashes(stream: int, counters: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Give the 64 random bits of each counter of a stream (SplitMix64), independent of the other counters.

    Args:
        stream: a key.
        counters: non-negative integers of any shape.

    Returns:
        uint64 of the same shape.
    """
    # Arithmetic is modulo 2^64; numpy would warn of that for a single number, though not for an array.
    with np.errstate(over="ignore"):
        bits = np.asarray(counters).astype(np.uint64) * _INCREMENT + np.uint64(stream)
        bits = (bits ^ (bits >> _SHIFTS[0])) * _FACTORS[0]
        bits = (bits ^ (bits >> _SHIFTS[1])) * _FACTORS[1]
        return np.asarray(bits ^ (bits >> _SHIFTS[2]))


def uniforms(stream: int, indices: npt.ArrayLike, draws: int) -> npt.NDArray[np.float64]:
    """Draw `draws` numbers in [0, 1) for each index: a row depends on the stream and its own index alone.

    Args:
        stream: a key.
        indices: [N] non-negative integers, for example the samples of a batch.
        draws: numbers for each index.

    Returns:
        [N, draws] float64.
    """
    counters = np.asarray(indices).astype(np.uint64)[:, None] * np.uint64(draws) + np.arange(
        draws, dtype=np.uint64
    )
    return (hashes(stream, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(stream: int, count: int) -> npt.NDArray[np.int64]:
    """Shuffle 0..count-1 by sorting the stream's bits: the same in every numpy, unlike
    `Generator.permutation`."""
    return np.argsort(hashes(stream, np.arange(count)), kind="stable").astype(np.int64)


def fingerprint(content: Mapping[str, Any]) -> str:
    """Hash settings by their content, whatever the order in which they were written down.

    Args:
        content: anything that JSON can hold.

    Returns:
        64 hexadecimal digits (SHA-256 of the canonical JSON).
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
