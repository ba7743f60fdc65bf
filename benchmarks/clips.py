"""The clips of the corpus that a word error rate may be taken of, and how it is taken."""

from __future__ import annotations

import io
import json
import os
import wave
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import jiwer
import numpy as np
from whisper_normalizer.english import EnglishTextNormalizer

from whisperd.engine.audio import SAMPLE_RATE, Limits, decode

CORPUS = Path(os.environ.get("WHISPERD_CORPUS") or Path(__file__).resolve().parents[2] / "shared" / "corpus")
PAUSE_SECONDS = 0.5  # between the clips of a joined file


@dataclass
class Clip:
    path: Path
    seconds: float
    reference: str


def english_clips() -> Iterator[Clip]:
    """Those with a reference that may be used."""
    for line in (CORPUS / "speech" / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["language"] == "en" and entry["use_for_wer"]:
            yield Clip(CORPUS / "speech" / entry["file"], entry["duration_s"], entry["reference"])


def samples(path: Path) -> np.ndarray:
    """Mono, 16 kHz, int16, shape (n,)."""
    pcm = io.BytesIO()
    with path.open("rb") as file:
        decode(file, pcm, split=False, limits=Limits(), tick=lambda seconds: None)
    return np.frombuffer(pcm.getvalue(), np.int16)


def wav(pcm: np.ndarray) -> bytes:
    """Of mono samples, 16 kHz, int16, shape (n,)."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(SAMPLE_RATE)
        sound.writeframes(pcm.astype("<i2").tobytes())
    return file.getvalue()


def variants(seconds: float, many: int) -> Iterator[bytes]:
    """Of one clip, as WAV. No two are alike: an equal one would get the transcript of the first."""
    pcm = samples(next(clip.path for clip in english_clips() if clip.seconds >= seconds))
    for number in range(many):
        cut = pcm[: round(seconds * SAMPLE_RATE)].copy()
        cut[number] += 1
        yield wav(cut)


def joined(path: Path, clips: Sequence[Clip], seconds: float) -> Clip:
    """One WAV of them with PAUSE_SECONDS between, from the first again until it is so long."""
    parts, references, length = [], [], 0
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE), np.int16)
    for clip in cycle(clips):
        parts += [samples(clip.path), pause]
        references.append(clip.reference)
        length += len(parts[-2]) + len(pause)
        if length >= seconds * SAMPLE_RATE:
            break
    path.write_bytes(wav(np.concatenate(parts)))
    return Clip(path, length / SAMPLE_RATE, " ".join(references))


def errors(references: Iterable[str], texts: Sequence[str]) -> jiwer.WordOutput:
    """Over Whisper's English normaliser, all texts as one (errors ÷ reference words)."""
    normal = EnglishTextNormalizer()
    plain = [normal(reference.replace("(", "").replace(")", "")) for reference in references]
    return jiwer.process_words(plain, [normal(text) for text in texts])
