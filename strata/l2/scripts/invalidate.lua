--@common
-- Drop what is cached, whatever its version; pending writes stay, and intents refuse fills anyway.
-- KEYS  1 the record's key
-- ARGV  1 channel; 2 message
say(ARGV[1], ARGV[2])
local raw = standing(KEYS[1], get(KEYS[1]))
local k = kind(raw)
if k == 'L' or (holds_version(raw) and not is_pending(raw)) then redis.call('DEL', KEYS[1]) end
return 1
