--@common
-- Take up one part of a job, for the length of a lease.
-- KEYS  1 strata:{job}:<id> (hash: the job's record); 2 ...:due (sorted set: part -> ms from which it may be taken);
--       3 ...:parts (hash: part -> what it is); 4 ...:held (hash: part -> <token>:<times taken without progress>)
-- ARGV  1 token; 2 lease ms
-- Returns part, what it is, times taken; nothing where no part is to be had.
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'pending' and state ~= 'running' then return {} end
local now = now_ms()
local part = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now), 'LIMIT', 0, 1)[1]
if not part then return {} end
local times = tonumber(string.match(redis.call('HGET', KEYS[4], part) or '', ':(%d+)$') or 0) + 1
redis.call('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[2])), part)
redis.call('HSET', KEYS[4], part, ARGV[1] .. ':' .. times)
redis.call('HSET', KEYS[1], 'state', 'running')
return { part, redis.call('HGET', KEYS[3], part), times }
