-- What every script of the leases begins with.
-- KEYS 1 the nodes, by the end of their lease (ms); 2 the newest generation; 3 the dead, by until when someone has
-- claimed their cleaning (ms). ARGV 1 length of a lease (ms)
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local function int(n) return string.format('%.0f', n) end
local ends = int(now + tonumber(ARGV[1]))
