"""Short audio for attacks: enough for every step of a task, and over soon."""

import io
import wave

import numpy as np

RATE = 16_000


def wav(samples):
    """Mono int16 at 16 kHz, as the bytes of a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(RATE)
        target.writeframes(np.asarray(samples, np.int16).tobytes())
    return file.getvalue()


def silence(seconds=0.1):
    """Decoded and searched for speech like all audio; its plan has no chunk."""
    return wav(np.zeros(round(seconds * RATE)))


def speech(jfk, start, end):
    return wav(samples(jfk)[int(start * RATE) : int(end * RATE)])


def minutes_of(jfk, minutes):
    """The JFK clip over and over, a second of silence in between."""
    loop = np.concatenate([samples(jfk), np.zeros(RATE, np.int16)])
    return wav(np.tile(loop, round(minutes * 5)))


def samples(path):
    with wave.open(str(path)) as source:
        return np.frombuffer(source.readframes(source.getnframes()), np.int16)
