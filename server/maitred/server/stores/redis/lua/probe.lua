-- Try every command that writes, on a key of no meaning: one that is forbidden must not be found in
-- the middle of a commit.

local key = P .. 'probe'
call('TIME')
call('DEL', key)
call('HINCRBY', key, 'n', 1)
call('HSET', key, 'f', '1')
call('HDEL', key, 'f')
call('DEL', key)
call('ZADD', key, 0, 'm')
call('ZREM', key, 'm')
call('DEL', key)
local place = call('XADD', key, '*', 'f', '1')
call('XDEL', key, place)
call('DEL', key)
call('RPUSH', key, '1')
call('EXPIRE', key, 1)
call('DEL', key)
return 'C'
