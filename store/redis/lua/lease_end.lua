-- Ends a lease. ARGV 2 the node, 3 "1" if it leaves nothing behind; else the others clean up after it.
if ARGV[3] == '1' then return redis.call('ZREM', KEYS[1], ARGV[2]) end
if redis.call('ZSCORE', KEYS[1], ARGV[2]) then redis.call('ZADD', KEYS[1], int(now), ARGV[2]) end
return 0
