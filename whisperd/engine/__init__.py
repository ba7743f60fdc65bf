"""The engine: decode, find speech, plan chunks, transcribe. Runs in the child, never in the daemon."""
