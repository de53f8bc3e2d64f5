--@common
--@ledger
-- Claim the telling of a failure, so that OnWriteError runs once for each version of a key.
-- KEYS  1 told (sorted set: version -> ms)
-- ARGV  1 version; 2 ms for which it is remembered; 3 most that are
-- Returns 1 if it is the caller's to tell.
even_if_full(KEYS[1])
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now - tonumber(ARGV[2])))
local mine = redis.call('ZADD', KEYS[1], 'NX', whole(now), ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -tonumber(ARGV[3]) - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return mine
