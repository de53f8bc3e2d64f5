--@common
-- After a synchronous writer's commit: its value takes the place of its intent. A spoiled put stores nothing, and
-- the last writer to leave empties the key. A put that does not find its intent removes any lease and any older value,
-- spoils other intents, and stores nothing. It also removes what is settled here with a higher version: a row that was
-- written anew after its deletion may have a lower one. But who tells once more what L2 was told before, with no token,
-- removes no value that is newer.
-- KEYS  the records' keys
-- ARGV  1 writer's token, '' = none; 2 channel; then for each key: version, content ('' = not to be kept), px, message
local now = now_ms()
local held, stored = redis.call('MGET', unpack(KEYS)), {}
-- Whether the intent of this writer is among those that a key holds, and the others: those of one commit are alike.
local seen, among, rest
local function look(raw)
  seen, among, rest = raw, false, {}
  for _, w in ipairs(writers(raw, now)) do
    if w[1] == ARGV[1] then among = true else rest[#rest + 1] = w end
  end
end
for i, key in ipairs(KEYS) do
  local at = 2 + (i - 1) * 4
  local version, content, px = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  say(ARGV[2], ARGV[at + 4])
  local raw = held[i] and standing(key, held[i])
  local k = kind(raw)
  if k == 'I' and raw ~= seen then look(raw) end
  local mine = k == 'I' and among
  stored[i] = 0
  if mine and string.sub(raw, 4, 4) == 'c' and content ~= '' then
    store(key, content, px)
    stored[i] = 1
  elseif mine and #rest == 0 then
    redis.call('DEL', key)
  elseif mine then
    keep_intent(key, rest, true, now)
  elseif k == 'I' then
    spoil(key, raw)
  elseif k == 'L' or (holds_version(raw) and older(version_of(raw), version)) then
    redis.call('DEL', key)
  elseif holds_version(raw) and not is_pending(raw) and (k == 'T' or (ARGV[1] ~= '' and version_of(raw) ~= version)) then
    redis.call('DEL', key)
  end
end
return stored
