-- The node has sockets of the user. ARGV 4 the name that the node had before (may be the same), 5 the token of a
-- leaving whose reply was lost. Returns -1 if the lease is over, 1 if the user came online, else 0; and when.
if lost then return {-1, stamp} end
local token0, first0 = read(up[node])
if token0 == token then return {first0 and 1 or 0, stamp} end
local first = not online()
local token1, last1 = read(left[ARGV[4]])
-- Nobody was told that the user went: nobody needs to be told of the return.
if first and last1 and token1 == ARGV[5] then first = false end
bury()
redis.call('HDEL', key, '~' .. node, '~' .. ARGV[4])
if ARGV[4] ~= node then redis.call('HDEL', key, '+' .. ARGV[4]) end
redis.call('HSET', key, '+' .. node, token .. bit(first))
redis.call('PERSIST', key)
return {first and 1 or 0, stamp}
