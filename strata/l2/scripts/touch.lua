--@common
-- Give a value another life, unless it is newer than who does so; a lease goes, since its reader would give the old one.
-- Who has a copy is told, unless that ends no later than it was to end: it has all that was left of a life of its own.
-- KEYS  1 the record's key
-- ARGV  1 channel; 2 version of who gives it; 3 px, 0 = no expiry; 4 ';' for a life of its own, ':' for that of all;
--       5 message
-- Returns the version that stands there ('' = no value), and whether it has that life now.
local raw = standing(KEYS[1], get(KEYS[1]))
local k = kind(raw)
if k == 'L' then redis.call('DEL', KEYS[1]) end
if k ~= 'V' then return { '', 0 } end
if older(ARGV[2], version_of(raw)) then return { version_of(raw), 0 } end
local left, px = redis.call('PTTL', KEYS[1]), tonumber(ARGV[3])
local shortened = px > 0 and (left < 0 or px < left)
if shortened or not has_own_life(raw) then say(ARGV[1], ARGV[5]) end
store(KEYS[1], living(raw, ARGV[4]), ARGV[3])
return { version_of(raw), 1 }
