--@common
-- After L3 took a deferred write: the pending entry of that version becomes settled, with L3's content where it
-- differs. Never creates a key; removes a lease, spoils an intent, removes what is older than L3; and what is pending at
-- whatever version, where L3's content is another: it was read from an entry that several had a part in, and that may be
-- lost, so that nobody would settle it.
-- KEYS  the records' keys
-- ARGV  1 channel; then for each key: L3's version, new content ('' = as it is, '-' = none), px, message ('' = none),
--       whether it is said in any case (1), or only where the key does not show that the hand-off was told of (0)
local call = redis.call
get_even_if_full(KEYS[1])
local held = call('MGET', unpack(KEYS))
for i, key in ipairs(KEYS) do
  local at = 1 + (i - 1) * 5
  local version, content, px, message = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local raw = standing(key, held[i])
  local k = kind(raw)
  if ARGV[at + 5] == '1' or not holds_version(raw) or version_of(raw) ~= version then say(ARGV[1], message) end
  if k == 'L' then
    call('DEL', key)
  elseif k == 'I' then
    spoil(key, raw)
  elseif raw and version_of(raw) == version then
    if content == '-' then
      call('DEL', key)
    elseif content ~= '' and has_own_life(raw) then
      call('SET', key, living(content, ';'), 'KEEPTTL')
    elseif content ~= '' then
      store(key, content, px)
    elseif is_pending(raw) then
      call('SETRANGE', key, 23, 's')
    end
  elseif raw and (older(version_of(raw), version) or (content == '-' and is_pending(raw))) then
    call('DEL', key)
  end
end
return 1
