"""What schemathesis cannot know from the document: audio, and where some lies. Loaded by its command line."""

import os
from pathlib import Path

import schemathesis
from hypothesis import strategies as st
from schemathesis.transport.serialization import Binary

schemathesis.openapi.format("binary", st.just(Binary(Path(os.environ["AUDIO_PATH"]).read_bytes())))
schemathesis.openapi.format("path", st.just(os.environ["AUDIO_PATH"]))
schemathesis.openapi.format("uri", st.just(os.environ["AUDIO_URL"]))
