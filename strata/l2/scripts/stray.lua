-- Keys of another type than Strata keeps under their names are nobody's. Nothing of Strata's is in them, and nothing can
-- be put there: they are renamed, so that their owner finds them.
-- KEYS  the keys
-- ARGV  the type that each is to have
-- Returns for each key the type that it had, '' where nothing was wrong.
local found = {}
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  found[i] = ''
  if kind ~= ARGV[i] and kind ~= 'none' then
    redis.call('RENAME', key, key .. ':stray')
    found[i] = kind
  end
end
return found
