--@common
--@ledger
-- Entries that have no time, since Redis has evicted it, or one that is further ahead than any lease or pause, since a
-- clock went back or somebody else wrote it, are due now; nobody would find them otherwise, once their writer is gone.
-- KEYS  1 dirty; 2 due
-- ARGV  1 ms that a time may be ahead
-- Returns how many they were.
even_if_full(KEYS[2])
local now = now_ms()
local due, added = whole(now), 0

local function have_due(keys, how)
  for start = 1, #keys, 1000 do
    local dues = {}
    for i = start, math.min(start + 999, #keys) do
      dues[#dues + 1] = due
      dues[#dues + 1] = keys[i]
    end
    added = added + redis.call('ZADD', KEYS[2], how, 'CH', unpack(dues))
  end
end

have_due(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. whole(now + tonumber(ARGV[1])), '+inf'), 'XX')
if redis.call('ZCARD', KEYS[2]) < redis.call('HLEN', KEYS[1]) then have_due(redis.call('HKEYS', KEYS[1]), 'NX') end
return added
