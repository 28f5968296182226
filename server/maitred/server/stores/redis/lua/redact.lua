-- Erase the personal parts of some events; returns how many had any.

local key = personal_key(take())
return call('HDEL', key, unpack(ARGV, at + 1))
