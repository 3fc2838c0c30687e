-- The node has no sockets of the user any more. ARGV 4 unused, 5 the token of an entering whose reply was lost, or of which
-- nobody was told. Returns -1 if the lease is over, 1 if the user went offline, 2 if the user is online and nobody was told,
-- 3 if the user is offline and nobody was told of their being online, else 0; and when.
if lost then return {-1, stamp} end
local token0, last0 = read(left[node])
if token0 == token then return {last0 and 1 or 0, stamp} end
if not up[node] then return {0, stamp} end
local token1, first1 = read(up[node])
local untold = first1 and token1 == ARGV[5]
up[node] = nil
redis.call('HDEL', key, '+' .. node)
bury()
local last = not online()
if untold then
  went(node, token, false)
  return {last and 3 or 2, stamp}
end
went(node, token, last)
return {last and 1 or 0, stamp}
