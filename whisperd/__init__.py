"""whisperd: a transcription daemon. Imports nothing, so that the child stays light."""

__version__ = "0.1.0"
