--@common
--@ledger
-- When the oldest entry of a shard was first written: of a number of them, spread evenly over their times, where there
-- are more. Those whose times are next are not the oldest, since what is held is due later.
-- KEYS  1 dirty; 2 due
-- ARGV  1 the number
-- Returns ms, or nothing.
local most = tonumber(ARGV[1])
local count = redis.call('ZCARD', KEYS[2])
local keys = {}
if count <= most then
  keys = redis.call('ZRANGE', KEYS[2], 0, -1)
else
  for i = 0, most - 1 do
    local rank = math.floor(i * (count - 1) / (most - 1))
    keys[#keys + 1] = redis.call('ZRANGE', KEYS[2], rank, rank)[1]
  end
end
if #keys == 0 then return false end
local oldest = false
for _, entry in ipairs(redis.call('HMGET', KEYS[1], unpack(keys))) do
  if entry and string.find(entry, OURS) then
    local since = string.sub(entry, 26, 38)
    if not oldest or since < oldest then oldest = since end
  end
end
return oldest
