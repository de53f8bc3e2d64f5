--@common
-- Put pending values into L2 where the ledger, which took them before, is on another server or node. Never creates a
-- key: the write may have been persisted meanwhile, so that nobody would settle what is put here; readers of an empty
-- key ask the ledger. A lease goes, since its reader may have asked before the hand-off.
-- KEYS  the records' keys
-- ARGV  1 channel; then for each key: version, content ('' = remove what is older), px, message
for i, key in ipairs(KEYS) do
  local at = 1 + (i - 1) * 4
  local held = kind(redis.call('GET', key))
  if held == 'L' then
    redis.call('DEL', key)
  elseif held ~= '' then
    pend(key, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
  end
  say(ARGV[1], ARGV[at + 4])
end
return 1
