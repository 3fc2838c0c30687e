-- Tells those who read sessions whether the user is connected. KEYS 1 the session. ARGV 1 "true" or "false", 2 when
-- that came to be (microseconds): what is older than what is written is late.
local s = redis.call('HMGET', KEYS[1], 'userID', 'turn')
if s[1] and tonumber(s[2] or '0') < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'connected', ARGV[1], 'turn', ARGV[2])
end
return 0
