-- Keep a result, if nothing was written since it began to be loaded.
-- KEYS  1 the result; 2 the schema's generation
-- ARGV  1 the generation when loading began; 2 px, 0 = no expiry; 3 the result
if redis.call('MGET', KEYS[2])[1] ~= ARGV[1] then return 0 end
local content = 'S1:' .. ARGV[1] .. ':' .. ARGV[3]
if ARGV[2] == '0' then redis.call('SET', KEYS[1], content) else redis.call('SET', KEYS[1], content, 'PX', ARGV[2]) end
return 1
