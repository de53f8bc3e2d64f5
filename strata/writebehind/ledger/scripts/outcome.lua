-- Tell an instance what became of its writes, if it still lives.
-- KEYS  1 strata:{<instance>}:alive (text, expires when the instance stops beating);
--       2 strata:{<instance>}:outcomes (list)
-- ARGV  1 report; 2 seconds that the list is kept
-- Returns 1 if it lives.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('LTRIM', KEYS[2], 0, -1)  -- a write that needs no memory: what follows is not refused where there is none
redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
