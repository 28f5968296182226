-- The earliest alarm, or nothing.

local first = call('ZRANGE', P .. 'wake', 0, 0)[1]
return first and string.sub(first, 1, 20)
