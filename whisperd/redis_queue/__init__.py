"""The bridge to a BullMQ queue on Redis, which several hosts share: jobs in, progress and results out.

No second state machine: what a host takes runs as a task of its own SQLite queue. `link` is the way to Redis,
`board` the verbs of the shared queue, `formats` what a job says, `storage` where audio and transcripts lie
for all hosts, `ledger` what this host holds, `bridge` the worker's side and `reports` what it tells in the
end. See docs/redis.md.
"""
