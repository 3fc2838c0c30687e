-- Gives a process a name, never given before, and a lease. ARGV 2 what makes it unique.
local gen = math.max(tonumber(redis.call('GET', KEYS[2]) or '0') + 1, now)
redis.call('SET', KEYS[2], int(gen))
local node = int(gen) .. '-' .. ARGV[2]
redis.call('ZADD', KEYS[1], ends, node)
return {node, ends}
