-- Removes some users who have expired, and returns how many. ARGV 1 since when one must have been seen to be alive.
local gone = redis.call('ZRANGEBYSCORE', times, '-inf', ARGV[1], 'LIMIT', 0, 256)
for _, id in ipairs(gone) do remove(id) end
return #gone
