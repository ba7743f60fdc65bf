"""Every SQL statement about tasks and chunks: plain functions of a connection, one transaction each."""
