"""From a mask to a spatial filter: where the sounds of a stereo recording lie in different directions, that parts them.

Guided source separation (Boeddeker et al. 2018, with the complex angular central Gaussian mixture of Ito et al. 2016):
in each frequency, the observed pairs of left and right are explained by one direction of the wanted sound and a few of
everything else. The mask says beforehand how likely each pair is the wanted sound's; how well the pair fits to each
direction says the rest. Directions and assignments are improved in turn. A multichannel Wiener filter then takes out
what comes from the sound's direction. A recording whose ears hear the same gives back what the mask alone gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OTHERS = 3
"""Directions that everything else is explained by."""
ROUNDS = 6
FLOOR = 1e-3
"""Least and, from 1, greatest likelihood beforehand."""
CERTAIN = 1 - 1e-6
"""A share from which nothing is left to find out."""
LOADING = 1e-3
"""Added to the diagonal of covariances whose mean diagonal is 1."""
PURITY = 4
"""Exponent on an assignment as a weight of the filter's covariances: the surest pairs count most."""
BINS_AT_ONCE = 64
"""Frequencies that are worked on together: enough to be fast, few enough to stay in the processor's cache."""
TINY = 1e-30
"""Against division by nothing."""


@dataclass(frozen=True)
class _Pairs:
    """Left and right in some frequencies, (F, T) each: powers, and the real and imaginary part of left · right*."""

    left: np.ndarray
    right: np.ndarray
    real: np.ndarray
    imaginary: np.ndarray

    @property
    def power(self) -> np.ndarray:
        """Mean power of both ears."""
        return (self.left + self.right) / 2


@dataclass(frozen=True)
class _Covariance:
    """Hermitian 2×2 matrices, one per frequency, (F, 1) each; the mean of the diagonal is 1."""

    left: np.ndarray
    right: np.ndarray
    real: np.ndarray
    imaginary: np.ndarray

    @property
    def determinant(self) -> np.ndarray:
        """(F, 1)."""
        return self.left * self.right - self.real**2 - self.imaginary**2


def _covariance(pairs: _Pairs, weight: np.ndarray) -> _Covariance:
    sums = [
        np.einsum("ft,ft->f", weight, part)[:, None] for part in (pairs.left, pairs.right, pairs.real, pairs.imaginary)
    ]
    mean = (sums[0] + sums[1]) / 2 + TINY
    left, right, real, imaginary = (part / mean for part in sums)
    return _Covariance(left + LOADING, right + LOADING, real, imaginary)


def _distance(pairs: _Pairs, covariance: _Covariance) -> np.ndarray:
    """x^H R^-1 x of each pair, (F, T)."""
    found = covariance.right * pairs.left
    found += covariance.left * pairs.right
    found -= 2 * covariance.real * pairs.real
    found -= 2 * covariance.imaginary * pairs.imaginary
    found /= covariance.determinant
    return np.maximum(found, 1e-6)


def _first_guess(pairs: _Pairs, prior: np.ndarray) -> list[np.ndarray]:
    """Assignments to begin with: the others are told apart by how much louder they are in which ear."""
    louder = np.log((pairs.left + TINY) / (pairs.right + TINY))
    limits = np.quantile(louder, np.linspace(0, 1, OTHERS + 1)[1:-1], axis=1, keepdims=True)
    group = np.sum(louder[None] > limits, axis=0)
    return [prior**2, *((1 - prior) * (0.8 * (group == other) + 0.2 / OTHERS) for other in range(OTHERS))]


def _assigned(pairs: _Pairs, share: np.ndarray) -> np.ndarray:
    """How much of each pair is the wanted sound's, (F, T), 0 to 1, from how much the mask says."""
    power = pairs.left + pairs.right + TINY
    unit = _Pairs(pairs.left / power, pairs.right / power, pairs.real / power, pairs.imaginary / power)
    prior = np.clip(share, FLOOR, 1 - FLOOR)
    assigned = _first_guess(unit, prior)
    distances = [np.ones_like(prior)] * len(assigned)
    for _ in range(ROUNDS):
        whole = np.sum(assigned, axis=0) + TINY
        assigned = [part / whole for part in assigned]
        sizes = [part.sum(axis=1, keepdims=True) for part in assigned[1:]]
        among = np.sum(sizes, axis=0) + TINY
        likely: list[np.ndarray] = []
        for index, part in enumerate(assigned):
            covariance = _covariance(unit, part / distances[index])
            distances[index] = _distance(unit, covariance)
            beforehand = prior if index == 0 else (1 - prior) * (sizes[index - 1] / among)
            likely.append(beforehand / (covariance.determinant * distances[index] ** 2))
        assigned = likely
    found = assigned[0] / (np.sum(assigned, axis=0) + TINY)
    # What the mask is certain of stays so.
    return np.where((share <= 0) | (share >= CERTAIN), share, found)


def _filtered(left: np.ndarray, right: np.ndarray, pairs: _Pairs, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Multichannel Wiener filter by the covariances that `share`, (F, T), gives."""
    own, rest = _covariance(pairs, share**PURITY), _covariance(pairs, (1 - share) ** PURITY)
    own_power = share * pairs.power
    rest_power = pairs.power - own_power
    a = own_power * own.left + rest_power * rest.left + TINY
    d = own_power * own.right + rest_power * rest.right + TINY
    cross = own.real + 1j * own.imaginary
    b = own_power * cross + rest_power * (rest.real + 1j * rest.imaginary)
    determinant = np.maximum(a * d - np.square(b.real) - np.square(b.imag), TINY * TINY)
    first = (d * left - b * right) / determinant
    second = (a * right - b.conj() * left) / determinant
    return own_power * (own.left * first + cross * second), own_power * (cross.conj() * first + own.right * second)


def guided_filter(spectrum: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Take a sound out of a stereo spectrum, guided by its mask.

    Parameters
    ----------
    spectrum
        Shape (2, F, T), complex.
    share
        The sound's share of each ear's power, shape (2, F, T), 0 to 1; 0 where the sound is not.

    Returns
    -------
    np.ndarray
        The sound, shape (2, F, T), complex64; zero in bins where `share` is zero in both ears.
    """
    output = np.empty(spectrum.shape, np.complex64)
    for start in range(0, spectrum.shape[1], BINS_AT_ONCE):
        bins = slice(start, start + BINS_AT_ONCE)
        # Where both ears hear nearly the same, what tells them apart is lost in single precision.
        left, right = spectrum[:, bins].astype(np.complex128)
        cross = left * right.conj()
        pairs = _Pairs(_power(left), _power(right), cross.real.copy(), cross.imag.copy())
        assigned = _assigned(pairs, (share[0, bins].astype(np.float64) + share[1, bins]) / 2)
        output[0, bins], output[1, bins] = _filtered(left, right, pairs, assigned)
    return output


def _power(spectrum: np.ndarray) -> np.ndarray:
    return np.square(spectrum.real) + np.square(spectrum.imag)
