-- What is behind this up to the end of append.lua is a function in append_many.lua.
local function long(KEYS, ARGV)
