--@common
-- Put pending values into L2 where the ledger, which took them before, is on another server or node. Never creates a
-- key: the write may have been persisted meanwhile, so that nobody would settle what is put here; readers of an empty
-- key ask the ledger. A lease goes, since its reader may have asked before the hand-off.
-- KEYS  1 the record's key
-- ARGV  1 channel; 2 version; 3 content ('' = remove what is older); 4 px; 5 message
-- Returns 1 where a synchronous writer's intent stands there instead.
say(ARGV[1], ARGV[5])
local raw = get(KEYS[1])
local held, refused = kind(raw), false
if held == 'L' then
  redis.call('DEL', KEYS[1])
elseif held ~= '' then
  refused = pend(KEYS[1], raw, ARGV[2], ARGV[3], ARGV[4])
end
return refused and 1 or 0
