--@common
-- After L3 took a deferred write: the pending entry of that version becomes settled, with L3's content where it
-- differs. Never creates a key; removes a lease, spoils an intent, removes what is older than L3; and what is pending at
-- whatever version, where L3's content is another: it was read from an entry that several had a part in, and that may be
-- lost, so that nobody would settle it.
-- KEYS  the records' keys
-- ARGV  1 channel; then for each key: L3's version, new content ('' = as it is, '-' = none), px, message ('' = none),
--       whether it is said in any case (1), or only where the key does not show that the hand-off was told of (0)
get_even_if_full(KEYS[1])
local held = redis.call('MGET', unpack(KEYS))
for i, key in ipairs(KEYS) do
  local at = 1 + (i - 1) * 5
  local version, raw = ARGV[at + 1], held[i]
  if ARGV[at + 5] == '1' or not raw or version_of(raw) ~= version or not holds_version(raw) then
    say(ARGV[1], ARGV[at + 4])
  end
  settle(key, raw, version, ARGV[at + 2], ARGV[at + 3])
end
return 1
