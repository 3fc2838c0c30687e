-- The usual case of append.lua, ahead of all the rest, which it leaves alone.
if ARGV[7] == '1' then
  local done = usual(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[4], ARGV[5], ARGV[6], ARGV[8])
  if done then return done end
end
