-- The markers above a number, of tags so many at most, lowest first.
-- KEYS  1 numbers by tag (sorted set); 2 numbers by schema, and the floor by '' (sorted set)
-- ARGV  1 number; 2 most tags; 3 whether the floor is set where there is none, since markers may be lost; a Redis that
--       is full refuses that, and another process will do it
-- Returns tags with their numbers; schemas with theirs, the floor among them; how many schemas there are; the highest
-- number of tags, and of schemas.
if ARGV[3] == '1' and redis.call('EXISTS', KEYS[2]) == 0 then
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
  redis.pcall('ZADD', KEYS[2], string.format('%.0f', math.max(now, tonumber(ARGV[1]))), '')
end
local above = '(' .. ARGV[1]
return {
  redis.call('ZRANGEBYSCORE', KEYS[1], above, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2]),
  redis.call('ZRANGEBYSCORE', KEYS[2], above, '+inf', 'WITHSCORES'),
  redis.call('ZCARD', KEYS[2]),
  redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES'),
  redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES'),
}
