--@common
-- A commit that is known to have failed takes its intent back.
-- KEYS  the records' keys
-- ARGV  1 writer's token
local now = now_ms()
for _, key in ipairs(KEYS) do
  local raw = get_even_if_full(key)
  if kind(raw) == 'I' then
    local rest = {}
    for _, w in ipairs(writers(raw, now)) do
      if w[1] ~= ARGV[1] then rest[#rest + 1] = w end
    end
    if #rest == 0 then redis.call('DEL', key) else keep_intent(key, rest, string.sub(raw, 4, 4) == 's', now) end
  end
end
return 1
