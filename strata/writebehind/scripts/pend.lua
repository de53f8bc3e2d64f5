--@common
-- Put pending values into L2 where the ledger, which took them before, is on another server or node.
-- KEYS  the records' keys
-- ARGV  1 channel; then for each key: version, content ('' = remove what is older), px, message
for i, key in ipairs(KEYS) do
  local at = 1 + (i - 1) * 4
  pend(key, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
  say(ARGV[1], ARGV[at + 4])
end
return 1
