--@common
-- Drop what is cached, whatever its version; pending writes stay. Intents are spoiled: what their writers have committed
-- may be what the row held before it was changed by somebody else.
-- KEYS  the records' keys
-- ARGV  1 channel; then for each key its message
for i, key in ipairs(KEYS) do
  say(ARGV[1], ARGV[1 + i])
  local raw = standing(key, get(key))
  local k = kind(raw)
  if k == 'I' then
    spoil(key, raw)
  elseif k == 'L' or (holds_version(raw) and not is_pending(raw)) then
    redis.call('DEL', key)
  end
end
return 1
