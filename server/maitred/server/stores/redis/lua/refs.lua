-- The next refs by text.

local after, limit = take(), take_number()
return call('ZRANGEBYLEX', P .. 'refs', '(' .. after, '+', 'LIMIT', 0, limit)
