--@common
--@ledger
-- Entries of which Redis has evicted the times are due now; nobody would find them otherwise, once their writer is gone.
-- KEYS  1 dirty; 2 due
-- Returns how many they were.
even_if_full(KEYS[2])
local now, added = whole(now_ms()), 0
local keys = redis.call('HKEYS', KEYS[1])
for start = 1, #keys, 1000 do
  local dues = {}
  for i = start, math.min(start + 999, #keys) do
    dues[#dues + 1] = now
    dues[#dues + 1] = keys[i]
  end
  added = added + redis.call('ZADD', KEYS[2], 'NX', unpack(dues))
end
return added
