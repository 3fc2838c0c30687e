-- Renews a lease that is not over, claims a dead node, and lists the living. ARGV 2 the node, 3 the node that it is
-- cleaning, 4 "1" to claim one. Returns 1 or 0 for a lost lease, its end, the horizon, the claimed node or "", the living.
local held = redis.call('ZSCORE', KEYS[1], ARGV[2])
if not held or tonumber(held) <= now then return {0, '0', '0', ''} end
redis.call('ZADD', KEYS[1], ends, ARGV[2])
local claimed = ''
if ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[3], ends, ARGV[3])
elseif ARGV[4] == '1' then
  claimed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now), 'LIMIT', 0, 1)[1]
    or redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', int(now), 'LIMIT', 0, 1)[1] or ''
  if claimed ~= '' then
    redis.call('ZREM', KEYS[1], claimed)
    redis.call('ZADD', KEYS[3], ends, claimed)
  end
end
local out = {1, ends, redis.call('GET', KEYS[2]) or '0', claimed}
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. int(now), '+inf')) do out[#out + 1] = node end
return out
