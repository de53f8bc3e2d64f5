--@common
-- What became of a part of a job: some more of it was done, it ended, or it fell into others.
-- KEYS  1 to 4 as in take.lua; 5 strata:{job}:open (sorted set of the jobs that have not ended)
-- ARGV  1 token; 2 part; 3 what is left of it ('' = nothing); 4 count to add to `done`; 5 total ('' = as it is);
--       6 ms after which others may take it; 7 '1' if it stays held; 8 the job's id; 9 seconds that it is kept;
--       then for each new part: part, what it is
-- Returns how many parts are left, -1 where another one has taken it meanwhile: nothing is changed then.
local job, due, parts, held = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holder = redis.call('HGET', held, ARGV[2])
if not holder or string.match(holder, '^(.*):%d+$') ~= ARGV[1] then return -1 end
local now = now_ms()
if ARGV[3] == '' then
  redis.call('ZREM', due, ARGV[2])
  redis.call('HDEL', parts, ARGV[2])
  redis.call('HDEL', held, ARGV[2])
else
  redis.call('HSET', parts, ARGV[2], ARGV[3])
  redis.call('ZADD', due, string.format('%.0f', now + tonumber(ARGV[6])), ARGV[2])
  if ARGV[7] == '1' then
    redis.call('HSET', held, ARGV[2], ARGV[4] == '0' and holder or ARGV[1] .. ':1')
  else
    redis.call('HDEL', held, ARGV[2])
  end
end
for i = 10, #ARGV, 2 do
  redis.call('HSET', parts, ARGV[i], ARGV[i + 1])
  redis.call('ZADD', due, string.format('%.0f', now), ARGV[i])
end
local done = redis.call('HINCRBY', job, 'done', ARGV[4])
if ARGV[5] ~= '' then redis.call('HSET', job, 'total', ARGV[5]) end
local left = redis.call('ZCARD', due)
if left == 0 then
  redis.call('HSET', job, 'state', 'done', 'result', done, 'total', done)
  redis.call('ZREM', KEYS[5], ARGV[8])
elseif (tonumber(redis.call('HGET', job, 'total') or 0) or 0) < done then
  redis.call('HSET', job, 'total', done)
end
for i = 1, 4 do redis.call('EXPIRE', KEYS[i], ARGV[9]) end
return left
