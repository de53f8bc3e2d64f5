--@common
-- Set markers, and tell of them. One that is new is refused where its number is not above all that there are; one that
-- is told again, since another Redis may have taken this one's place, is set where there is none as high.
-- Where there are no markers at all, those that were may be lost: the floor then says that what was read before is
-- older than any.
-- KEYS  1 numbers by tag (sorted set); 2 numbers by schema, and the floor by '' (sorted set)
-- ARGV  1 channel; 2 most tags; 3 whether they are told again; then for each marker: schema ('' = of a tag), tag,
--       number, message
-- Returns the number that a new one must be above where it is refused, also as one of the far future, else ''.
clear_unless('zset', KEYS[1])
clear_unless('zset', KEYS[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local function whole(number) return string.format('%.0f', number) end
local function highest(key)
  redis.call('ZREMRANGEBYSCORE', key, '(' .. whole(now + 60000000), '+inf')  -- the far future is nobody's
  return tonumber(redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2] or 0)
end
local last = math.max(highest(KEYS[1]), highest(KEYS[2]))
for i = 4, #ARGV, 4 do
  local number = tonumber(ARGV[i + 2])
  if ARGV[3] == '0' and (number <= last or number > now + 60000000) then return whole(math.max(last, now)) end
end
if not redis.call('ZSCORE', KEYS[2], '') then
  local first = math.max(now, last)
  if ARGV[3] == '0' then first = math.min(first, tonumber(ARGV[6]) - 1) end
  redis.call('ZADD', KEYS[2], whole(first), '')
end
for i = 4, #ARGV, 4 do
  local schema, tag, number = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key, member = KEYS[1], tag
  if schema ~= '' then key, member = KEYS[2], schema end
  local known = redis.call('ZSCORE', key, member)
  if not known or tonumber(known) < tonumber(number) then
    say(ARGV[1], ARGV[i + 3])
    redis.call('ZADD', key, number, member)
  end
end
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[2])
if over > 0 then
  local cut = redis.call('ZRANGE', KEYS[1], over - 1, over - 1, 'WITHSCORES')[2]
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, over - 1)
  if tonumber(cut) > tonumber(redis.call('ZSCORE', KEYS[2], '')) then redis.call('ZADD', KEYS[2], cut, '') end
end
return ''
