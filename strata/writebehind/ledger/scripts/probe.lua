--@common
--@ledger
-- What became of writes that were handed off.
-- KEYS  1 dirty; 2 floor0; 3 floor1; 4 graves
-- ARGV  the keys
-- Returns for each key: pending version, version that L3 is known to have, versions of its dead letters; '' = none.
local found = {}
local known = floors(KEYS[2], KEYS[3], ARGV)
local entries = redis.call('HMGET', KEYS[1], unpack(ARGV))
local graves = redis.call('HMGET', KEYS[4], unpack(ARGV))
for i = 1, #ARGV do
  found[#found + 1] = entries[i] and is_entry(entries[i]) and version_of(entries[i]) or ''
  found[#found + 1] = known[i]
  found[#found + 1] = graves[i] or ''
end
return found
