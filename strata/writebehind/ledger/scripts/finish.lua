--@common
--@ledger
-- L3 has these whole writes just as they were handed off: what is pending of them in L2 is settled, as `settle.lua` has
-- it, and then they leave the ledger, as `done.lua` has it. For a ledger and an L2 of one server.
-- KEYS  1 dirty; 2 due; 3 claims; 4 floor0; 5 floor1; 6 dead; 7 deaths; 8 graves; 9 untold; then the records' L2 keys
-- ARGV  1 channel; 2 the head of a message about those of which L2 does not show that the hand-off was told of; then for
--       each record: key, version
-- Returns the number of entries that left.
local keys, versions, said = {}, {}, {}
even_if_full(KEYS[2])
local held = redis.call('MGET', unpack(KEYS, 10))
for i = 1, #held do
  local key, version, raw = ARGV[2 * i + 1], ARGV[2 * i + 2], held[i]
  keys[i], versions[i] = key, version
  if not raw or version_of(raw) ~= version or not holds_version(raw) then
    said[#said + 1] = key
    said[#said + 1] = version
  end
end
say_of(ARGV[1], ARGV[2], said)
for i = 1, #held do settle(KEYS[9 + i], held[i], versions[i], '', '0') end
return persisted(keys, versions, {}, '')
