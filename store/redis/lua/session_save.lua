-- Adds or replaces a session. KEYS 1 the session. ARGV 1 user, 2 username, 3 seen (ms), 4 life (ms). Returns 0, and
-- changes nothing, if it is another user's.
local owner = redis.call('HGET', KEYS[1], 'userID')
if owner and owner ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'userID', ARGV[1], 'username', ARGV[2], 'connected', 'true', 'seen', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
