"""What BullMQ has no script for: locks that are taken up again, jobs that somebody else cancels."""

# Renews a lock. One that ran out while Redis or its holder was away is taken up again, if nobody has begun
# the job since: `ats` counts how often it was begun.
BEAT = """
local lock, stalled, active, job = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('exists', job) == 0 then return 'gone' end
local owner = redis.call('get', lock)
if owner ~= ARGV[1] then
  local begun = redis.call('hget', job, 'ats')
  if owner or begun ~= ARGV[4] or not redis.call('lpos', active, ARGV[3]) then return 'lost' end
end
redis.call('set', lock, ARGV[1], 'px', ARGV[2])
redis.call('srem', stalled, ARGV[3])
if redis.call('hexists', job, 'cancelled') == 1 then return 'cancelled' end
return redis.call('hexists', job, 'risk_cancelled') == 1 and 'look_cancelled' or 'held'
"""
# Tells a Redis that has lost a job which its holder is at work on. A number is one that BullMQ has counted:
# it must not be given out again.
PUT_BACK = """
local job, active, lock, counter, id = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
if redis.call('exists', job) == 1 then return 0 end
redis.call('hset', job, unpack(ARGV, 4))
redis.call('lpush', active, id)
redis.call('set', lock, ARGV[2], 'px', ARGV[3])
local counted = #id < 16 and string.match(id, '^%d+$')
if counted and tonumber(id) > tonumber(redis.call('get', counter) or '0') then
  redis.call('set', counter, id)
end
return 1
"""
# Ends a job that nobody works on; one that is worked on is marked, for its holder to see at its next beat.
CANCEL = """
local job, active, failed, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, now = ARGV[1], ARGV[2]
if redis.call('exists', job) == 0 then return 'gone' end
local waited = redis.call('lrem', KEYS[5], 1, id) + redis.call('lrem', KEYS[6], 1, id)
  + redis.call('zrem', KEYS[7], id) + redis.call('zrem', KEYS[8], id)
if waited == 0 then
  if not redis.call('lpos', active, id) then return 'over' end
  redis.call('hset', job, 'cancelled', now)
  return 'cancelled'
end
redis.call('hdel', job, 'cancelled')
redis.call('hset', job, 'failedReason', 'cancelled', 'finishedOn', now)
redis.call('zadd', failed, now, id)
redis.call('xadd', events, '*', 'event', 'failed', 'jobId', id, 'failedReason', 'cancelled',
  'prev', 'waiting')
return 'cancelled'
"""
# What is done of a job goes on; its holder sees the mark at its next beat, or when it takes it.
CANCEL_LOOK = """
local job = KEYS[1]
if redis.call('exists', job) == 0 then return 'gone' end
if redis.call('hexists', job, 'finishedOn') == 1 then return 'over' end
redis.call('hset', job, 'risk_cancelled', ARGV[1])
return 'cancelled'
"""
