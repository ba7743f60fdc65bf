"""The clips of the corpus that a word error rate may be taken of, and how it is taken."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
from whisper_normalizer.english import EnglishTextNormalizer

from whisperd.engine.audio import Limits, decode

CORPUS = Path(os.environ.get("WHISPERD_CORPUS") or Path(__file__).resolve().parents[2] / "shared" / "corpus")


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


def errors(references: Iterable[str], texts: Sequence[str]) -> jiwer.WordOutput:
    """Over Whisper's English normaliser, all texts as one (errors ÷ reference words)."""
    normal = EnglishTextNormalizer()
    plain = [normal(reference.replace("(", "").replace(")", "")) for reference in references]
    return jiwer.process_words(plain, [normal(text) for text in texts])
