--@common
-- The result of a query, where it is of the present generation; where there is none, one begins, unless a writer's
-- commit is under way.
-- KEYS  1 the result; 2 the schema's generation; 3 its writers (sorted set: token, deadline in ms)
-- ARGV  1 a fresh token
-- Returns the result or nothing, and the generation under which a result loaded now may be kept ('' = none).
local generation = get(KEYS[2])
if not generation then
  clear_unless('zset', KEYS[3])
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now_ms())
  if redis.call('EXISTS', KEYS[3]) == 1 then return { false, '' } end
  redis.call('SET', KEYS[2], ARGV[1])
  return { false, ARGV[1] }
end
local head = 'S1:' .. generation .. ':'
local raw = get(KEYS[1])
if raw and string.sub(raw, 1, #head) == head then return { string.sub(raw, #head + 1), generation } end
return { false, generation }
