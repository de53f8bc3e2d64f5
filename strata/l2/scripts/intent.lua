--@common
-- Before a synchronous writer commits: the value goes, fills are refused, other instances drop the key.
-- Intents that meet are spoiled, so that no one of them stores a value.
-- KEYS  the records' keys
-- ARGV  1 writer's token; 2 ms until it has surely ended; 3 channel; then for each key its message
local now = now_ms()
local deadline = now + tonumber(ARGV[2])
local held = { get_even_if_full(KEYS[1]) }
if #KEYS > 1 then held = redis.call('MGET', unpack(KEYS)) end
for i, key in ipairs(KEYS) do
  say(ARGV[3], ARGV[3 + i])
  local list = kind(held[i]) == 'I' and writers(held[i], now) or {}
  local spoiled = #list > 0
  list[#list + 1] = { ARGV[1], deadline }
  keep_intent(key, list, spoiled, now)
end
return 1
