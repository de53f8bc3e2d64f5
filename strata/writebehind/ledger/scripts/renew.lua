--@common
--@ledger
-- A holder is still at work: its claims last for another lease. Those that others seized meanwhile are not its own.
-- KEYS  1 due; 2 claims
-- ARGV  1 token; 2 lease ms; then the keys
-- Returns how many claims are still held.
even_if_full(KEYS[1])
local now = now_ms()
local keys, dues = {}, {}
for i = 3, #ARGV do keys[#keys + 1] = ARGV[i] end
local held = redis.call('HMGET', KEYS[2], unpack(keys))
for i, key in ipairs(keys) do
  if held[i] and string.match(held[i], '^%d+:([^:]+):') == ARGV[1] then
    dues[#dues + 1] = whole(now + tonumber(ARGV[2]))
    dues[#dues + 1] = key
  end
end
if #dues > 0 then redis.call('ZADD', KEYS[1], 'XX', unpack(dues)) end
return #dues / 2
