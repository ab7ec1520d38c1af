"""Recordings that need no download: glides of tone as words, in noise, and their band energies.

The keyword is a rise followed by a fall of two formants; other words put the same glides in another
order, so that neither the spectrum nor one glide gives it away.
"""

import itertools

import numpy as np

RATE = 8000
FRAME = 200
BANDS = 16
SECONDS = 0.8
NOISE = (0.4, 0.9)
"""Standard deviation of the noise, between these; a word has about the amplitude 1."""
WORDS = (("rise", "fall"), ("fall", "rise"), ("rise", "rise"), ("fall", "fall"), ())
"""Glides of each word; the keyword is the first, and the last is noise alone."""


def glide(kind: str, length: int, pitch: float) -> np.ndarray:
    """Two tones of `length` samples that rise or fall together."""
    ends = (400.0, 800.0) if kind == "rise" else (800.0, 400.0)
    track = np.linspace(*ends, length) * pitch
    phase = 2 * np.pi * np.cumsum(track) / RATE
    fade = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 0.5
    return fade * (np.sin(phase) + 0.5 * np.sin(2.4 * phase))


def recording(draw: np.random.Generator, word: int) -> np.ndarray:
    """One recording, float64 samples."""
    samples = int(SECONDS * RATE)
    sound = np.zeros(samples)
    pitch = draw.uniform(0.8, 1.3)
    lengths = [int(draw.uniform(0.18, 0.26) * RATE) for _ in WORDS[word]]
    at = draw.integers(0, samples - sum(lengths)) if lengths else 0
    for kind, length in zip(WORDS[word], lengths):
        sound[at : at + length] += draw.uniform(0.5, 1.0) * glide(kind, length, pitch)
        at += length
    return sound + draw.uniform(*NOISE) * draw.standard_normal(samples)


def energies(sound: np.ndarray) -> np.ndarray:
    """Log energies in bands evenly spaced up to 2 kHz, one row per frame: [T, BANDS] float32.

    Each frame is looked at by itself, so a stream gives the same rows as the whole recording.
    """
    frames = sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME)
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME))) ** 2
    edges = np.linspace(1, 2000 / RATE * FRAME, BANDS + 1).astype(int)
    bands = np.stack([power[:, a:b].sum(1) for a, b in itertools.pairwise(edges)], axis=1)
    return (np.log(bands + 1.0) / 4 - 1).astype(np.float32)


def dataset(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Recordings and whether each is the keyword: [N, T, BANDS] float32 and [N] int32."""
    draw = np.random.default_rng(seed)
    # Every other recording is the keyword.
    words = np.where(np.arange(count) % 2 == 0, 0, draw.integers(1, len(WORDS), count))
    rows = [energies(recording(draw, word)) for word in words]
    return np.stack(rows), (words == 0).astype(np.int32)
