--@common
-- Take back a deferred write that was given up: values and leases up to its version go, intents are spoiled, and
-- every instance drops what it holds up to that version.
-- KEYS  the records' keys
-- ARGV  1 channel; then for each key: version, message
for i, key in ipairs(KEYS) do
  local version = ARGV[i * 2]
  say(ARGV[1], ARGV[i * 2 + 1])
  local raw = standing(key, get_even_if_full(key))
  local k = kind(raw)
  if k == 'L' then
    redis.call('DEL', key)
  elseif k == 'I' then
    spoil(key, raw)
  elseif raw and not older(version, version_of(raw)) then
    redis.call('DEL', key)
  end
end
return 1
