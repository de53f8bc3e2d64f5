-- A small key that says something for a while. A Redis that is out of memory refuses a command that may need some,
-- unless the script has written before, as GETEX does without changing anything.
-- KEYS  1 the key
-- ARGV  1 value; 2 ms for which it stands; 3 whether only where there is none (1 or 0). One that stands for longer than
--       that, or for ever, is nobody's.
-- Returns 1 if it was set.
local old = redis.pcall('GETEX', KEYS[1])
if type(old) == 'table' then
  if not string.find(old.err, 'WRONGTYPE', 1, true) then return old end
  old = false  -- which SET replaces, whatever it is
end
if old and ARGV[3] == '1' then
  local left = redis.call('PTTL', KEYS[1])
  if left >= 0 and left <= tonumber(ARGV[2]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
