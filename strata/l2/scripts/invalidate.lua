--@common
-- Drop what is cached, whatever its version; pending writes stay. Intents are spoiled: what their writers have committed
-- may be what the row held before it was changed by somebody else.
-- KEYS  1 the record's key
-- ARGV  1 channel; 2 message
say(ARGV[1], ARGV[2])
local raw = standing(KEYS[1], get(KEYS[1]))
local k = kind(raw)
if k == 'I' then
  spoil(KEYS[1], raw)
elseif k == 'L' or (holds_version(raw) and not is_pending(raw)) then
  redis.call('DEL', KEYS[1])
end
return 1
