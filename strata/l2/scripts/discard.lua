-- Replace an entry that cannot be read by a lease, if it is still that very entry.
-- KEYS  1 the record's key
-- ARGV  1 lease token; 2 lease ms; 3 the bytes that could not be read
if redis.call('GET', KEYS[1]) ~= ARGV[3] then return 0 end
redis.call('SET', KEYS[1], 'L1:' .. ARGV[1], 'PX', ARGV[2])
return 1
