-- Restarts the life of a session. KEYS 1 the session. ARGV 1 seen (ms), 2 life (ms). Returns user and username, or
-- nothing if it is not there.
local s = redis.call('HMGET', KEYS[1], 'userID', 'username')
if not s[1] then return {} end
redis.call('HSET', KEYS[1], 'seen', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {s[1], s[2] or ''}
