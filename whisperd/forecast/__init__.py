"""When tasks will begin and end: the line as it stands, measured speeds, and both played through."""
