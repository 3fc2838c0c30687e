-- A node is dead; without ARGV 1, all that are. Returns -1 if our lease is over, 1 if the user is offline by that, or
-- went as the last thing the node did, else 0; and when.
if lost then return {-1, stamp} end
if node == '' then
  local was = online()
  bury()
  if was and not online() then
    went('', 'drop', true)
    return {1, stamp}
  end
  return {0, stamp}
end
if up[node] then
  up[node] = nil
  redis.call('HDEL', key, '+' .. node)
  went(node, 'drop', not online())
  return {online() and 0 or 1, stamp}
end
local _, last = read(left[node])
return {last and not online() and 1 or 0, stamp}
